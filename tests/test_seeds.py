"""Seeds: the run's seed decides where none is given, and a given number always gives the same draws."""

from functools import partial

import pytest
import torch
import yaml
from commands import SMALL, command
from fits import classifier, fit, pruning
from subjects import subject
from torch import nn

from spl.criteria import NPB, NTKSAP, PHEW, SAO, Criterion, Magnitude, Random, RedrawnWeights, ShuffledInLayers
from spl.functional.seeds import derived_seed
from spl.initializers import HeNormal, LeCunNormal, Orthogonal
from spl.isometry import EOI, SparseOrthogonal
from spl.masks.masks import Masks
from spl.networks import MLP
from spl.pruning import prune, score

CRITERIA = {
    "Random": Random,
    "PHEW": PHEW,
    "SAO": SAO,
    "NPB": NPB,
    "NTKSAP": partial(NTKSAP, draws=1),
    "shuffled": partial(ShuffledInLayers, Magnitude()),
    "redrawn": partial(RedrawnWeights, Magnitude(), HeNormal()),
}
BATCHES = [(torch.ones(4, 30), torch.zeros(4, dtype=torch.long))]


def network() -> nn.Module:
    torch.manual_seed(5)
    return MLP(depth=3, width=20, in_features=30)


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    ranks = [x.detach().flatten().argsort().argsort().double() for x in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


# Given seeds


@pytest.mark.parametrize(
    ("name", "seed", "digest"),
    [
        ("Random", 0, "7314b55fd3c277cf557029867e942b8d69f13d6b58d21ca2ad22d5ef258cc671"),
        ("Random", 3, "2d2c7477d3ba24638a87aa845bc988b717ff29da3b9d3d6a355152ef54fb7006"),
        ("PHEW", 0, "c63e2dceb41402191caa40741befb304123fde9627d45ce0fb06775e88f7d171"),
        ("PHEW", 3, "4e04845d3be75b7df647c91e2eea6ba79bd7d5498198cdb3dcdda6c03549f5c3"),
        ("SAO", 0, "533a66b3f990664279dd26a3285887cf44a44bb07b6abe1db3d09b218deaeb1f"),
        ("SAO", 3, "25e255c3ccd2d57876fed2fbca5ed3912a1d7d76c34a906962674474a60502be"),
        ("NPB", 0, "cfa6256bef0ca984abbcae67ff6eb98c33c74ceb2bf03fb2dcbc46d455fca43d"),
        ("NPB", 3, "b3897ca5d1e19f84c9c4be9d613020ba5240c0b96b3f003984172633498e300a"),
        ("NTKSAP", 0, "ea2169dc5c45072f702cdd26b6b71b5e50ebd9bd55679c09ee44c90f8c3f7d87"),
        ("NTKSAP", 3, "fb4a789cbac5dc0f4342c90fe743b38998bd8dd7aaf504140c112ad780d62d92"),
        ("shuffled", 0, "e850054c3ec69e9638af906b3fd01855f287f3a4562299e3ce21fcc727889978"),
        ("shuffled", 3, "0fcb9ef155cee34896550b6086ac81af5fa4c7eb55e42e155eabce8810b15a24"),
        ("redrawn", 0, "726d0aadf6cd2444efcaa417f493c2435331e786972e2d80f00e77d92377d7e4"),
        ("redrawn", 3, "d7056f1c9244326f54a16b960ddb626f2d5f81777ae69bf789180a5bdbcc7773"),
    ],
)
def test_a_number_gives_the_masks_that_it_gave_before_seeds_could_be_left_out(name, seed, digest):
    net = network()
    torch.manual_seed(11)  # the run's seed, which has no effect here
    assert prune(net, CRITERIA[name](seed=seed), 0.8, BATCHES).digest() == digest


@pytest.mark.parametrize(
    ("seed", "digest"),
    [
        (0, "56cc09e63d57217ba1a1e96a43dea08d1f8d8e8c5b00a1e6d528b3a370f4d9fb"),
        (3, "060171316dbe48892734b5868f13886eb8d21c6bbb522922bc7f5e2b9f328abc"),
    ],
)
def test_a_number_gives_the_draws_of_eoi_that_it_gave_before(seed, digest):
    net = network()
    masks = Masks({name: torch.rand_like(p) < 0.3 for name, p in net.named_parameters() if p.ndim > 1})
    torch.manual_seed(11)
    assert EOI(seed=seed).seeded(7)(net, masks).masks.digest() == digest


def test_a_number_gives_the_weights_of_sparse_orthogonal_whatever_the_seed_of_the_run():
    drawn = []
    for run in (7, 8):
        net = network()
        SparseOrthogonal(seed=3).seeded(run)(net, prune(net, SAO(seed=0), 0.8))
        drawn.append(net.get_parameter("fc1.weight").detach())
    assert torch.equal(*drawn)


# The run's seed


@pytest.mark.parametrize("name", CRITERIA)
def test_without_lightning_masks_follow_the_seed_of_the_global_stream_and_leave_it_alone(name):
    net, masks = network(), {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.rand(seed)  # the position of the stream does not matter
        state = torch.get_rng_state()
        masks[seed] = prune(net, CRITERIA[name](), 0.8, BATCHES)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(seed)
        assert prune(net, CRITERIA[name](), 0.8, BATCHES) == masks[seed]
    assert masks[0] != masks[1]


def test_scores_follow_it_too_and_so_do_criteria_and_corrections_that_are_called_by_themselves():
    net = network()
    parameters, kept = dict(net.named_parameters()), {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        scores = score(net, parameters, Random())
        assert all(torch.equal(s, scores[name]) for name, s in Random()(subject(net)).items())
        kept[seed] = scores
        masks = Masks({"fc2.weight": scores["fc2.weight"] < 0.3})
        assert EOI()(network(), masks).masks == EOI().seeded(5)(network(), masks).masks  # which `network` seeds by 5
    assert not torch.equal(kept[0]["fc1.weight"], kept[1]["fc1.weight"])


class Averaged(Criterion):
    """A custom criterion that wraps another one and knows nothing about seeds."""

    needs_data = False

    def __init__(self, inner: Criterion) -> None:
        self.inner = inner

    def __call__(self, subject):
        scores, magnitudes = self.inner(subject), Magnitude()(subject)
        return {name: s + magnitudes[name] for name, s in scores.items()}


class Reading(Averaged):
    """A criterion that draws while it reads a batch, after the global stream was seeded again."""

    needs_data = True

    def __call__(self, subject):
        return [super(Reading, self).__call__(subject) for _ in subject.batches][-1]


def test_criteria_inside_others_follow_it():
    net, masks = network(), {}
    for make in (
        lambda: Averaged(Random()),
        lambda: ShuffledInLayers(Random(), seed=0),
        lambda: RedrawnWeights(PHEW(), HeNormal(), seed=0),
        lambda: ShuffledInLayers(ShuffledInLayers(Random(), seed=0), seed=0),
    ):
        for seed in (0, 1):
            torch.manual_seed(seed)
            masks[seed] = prune(net, make(), 0.8, BATCHES)
        assert masks[0] != masks[1]


@pytest.mark.parametrize("make", [lambda: nn.Linear(784, 100), lambda: nn.Conv2d(32, 64, 3), lambda: MLP(3)])
def test_random_masks_do_not_know_the_weights_of_the_run(make):
    torch.manual_seed(0)
    weights = dict((net := make()).named_parameters())
    largest = max(weights, key=lambda name: weights[name].numel())
    # the run's seed itself would repeat the numbers that the weights were drawn from
    naive = Random(seed=0)(subject(net))[largest]
    assert rank_correlation(naive, weights[largest]) > 0.999
    torch.manual_seed(0)
    drawn = score(net, weights, Random())[largest]
    assert abs(rank_correlation(drawn, weights[largest])) < 4 / drawn.numel() ** 0.5


@pytest.mark.parametrize("initializer", [HeNormal(), LeCunNormal(), Orthogonal()])
def test_redrawn_weights_are_others_than_the_network_s(initializer):
    net = MLP(depth=3, width=100)
    torch.manual_seed(0)
    initializer(net)
    weights = {name: p for name, p in net.named_parameters() if p.ndim > 1}
    naive = RedrawnWeights(Magnitude(), initializer, seed=0)(subject(net))
    assert all(torch.equal(naive[name], weight.abs()) for name, weight in weights.items())
    torch.manual_seed(0)
    drawn = score(net, weights, RedrawnWeights(Magnitude(), initializer))
    for name, weight in weights.items():
        assert abs(rank_correlation(drawn[name], weight.abs())) < 4 / weight.numel() ** 0.5


def test_draws_for_two_purposes_of_one_run_are_independent():
    seeds = {derived_seed(run, purpose) for run in range(100) for purpose in ("Random", "PHEW", "EOI")}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed % 2**32 for seed in seeds}) == 300  # CPU generators use 32 bits
    streams = [torch.rand(10_000, generator=torch.Generator().manual_seed(seed)) for seed in sorted(seeds)[:20]]
    correlations = torch.corrcoef(torch.stack(streams)) - torch.eye(20)
    assert correlations.abs().max() < 0.05


# Lightning


def test_the_record_has_the_seed_that_decided_also_where_draws_are_made_while_batches_are_read():
    drawn = pruning(criterion=ShuffledInLayers(Reading(Random())), isometry=EOI())
    fit(classifier(), [drawn], max_steps=1)  # its seed is 0
    assert drawn.record["run_seed"] == 0
    assert drawn.record["criterion_args"]["seed"] is drawn.record["isometry_args"]["seed"] is None
    seeds = {name: derived_seed(0, name) for name in ("Random", "ShuffledInLayers", "EOI")}
    numbered = pruning(criterion=ShuffledInLayers(Reading(Random(seeds["Random"])), seeds["ShuffledInLayers"]))
    numbered.isometry = EOI(seed=seeds["EOI"])
    fit(classifier(), [numbered], max_steps=1)
    assert numbered.masks == drawn.masks


BRIEF = ["--trainer.max_epochs", 1, "--trainer.limit_train_batches", 2, "--test_after_fit", "false"]
COMMANDS = {
    "Random": ["--pruning.criterion", "Random"],
    "PHEW": ["--pruning.criterion", "PHEW"],
    "SAO": ["--pruning.criterion", "SAO"],
    "NTKSAP": ["--pruning.criterion", "NTKSAP", "--pruning.criterion.draws", 1, "--pruning.schedule", "OneShot"],
    "shuffled": ["--pruning.criterion", "ShuffledInLayers", "--pruning.criterion.criterion", "Magnitude"],
    "redrawn": [
        *("--pruning.criterion", "RedrawnWeights", "--pruning.criterion.criterion", "Magnitude"),
        *("--pruning.criterion.initializer", "HeNormal"),
    ],
    "EOI": ["--pruning.criterion", "Magnitude", "--pruning.isometry", "EOI"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a checkpoint whose weights the fits start from, so that seeds affect only draws."""
    folder = tmp_path_factory.mktemp("seeds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = command("fit", *SMALL, "--name", "dense", "--pruning.sparsity", 0, *BRIEF)
        assert done.code == 0, done.errors
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_seed_everything_decides_what_the_command_draws(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    records = []
    for version, seed in enumerate((0, 1, 0)):
        pretrained = folder / "lightning_logs" / "dense" / "version_0" / "checkpoints" / "last.ckpt"
        arguments = ["--name", name, "--seed_everything", seed, "--model.pretrained", pretrained, *COMMANDS[name]]
        done = command("fit", *SMALL, *arguments, *BRIEF)
        assert done.code == 0, done.errors
        path = folder / "lightning_logs" / name / f"version_{version}" / "pruning.yaml"
        records.append(yaml.safe_load(path.read_text()))
    assert [record["run_seed"] for record in records] == [0, 1, 0]
    first, second, again = [record["masks_sha256"] for record in records]
    assert first == again != second
