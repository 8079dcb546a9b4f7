"""Lottery tickets: pruning by trained magnitude, rewinding, and rounds that `spl compare` finds again."""

import pytest
import torch
from forking import python
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.demos.boring_classes import BoringModel

from spl import PruneAtInit
from spl.__main__ import main
from spl.compare.comparison import RUNS, Comparison
from spl.compare.lottery import sparsities_before
from spl.compare.naming import method_named
from spl.criteria import TrainedMagnitude
from spl.errors import InputError
from spl.masks.masks import Masks
from spl.pruning import prune
from spl.reproduction import executors, page_parts
from spl.reproduction.job import waves
from spl.reproduction.results import Results
from spl.reproduction.run import with_ancestors

TINY = [
    "--model.network", "spl.networks.MLP", "--model.network.depth", "3", "--model.network.width", "10",
    "--data", "MNISTSample", "--name", "tiny", "--spectrum.examples", "2", "--trainer.accelerator", "cpu",
    "--trainer.max_steps", "3", "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1",
    "--trainer.log_every_n_steps", "1",
]  # fmt: skip
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


@pytest.fixture
def file(tmp_path):
    """Return a checkpoint of a layer whose second weight is pruned."""
    weights, masks = torch.tensor([[0.1, 0.0, -3.0, 2.0]]), torch.tensor([[True, False, True, True]])
    torch.save({"state_dict": {"weight": weights}, "masks": {"weight": masks}}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def layer(*weights):
    linear = torch.nn.Linear(len(weights), 1, bias=False)
    linear.weight.data.copy_(torch.tensor([weights]))
    return linear


def test_the_largest_trained_weights_are_kept_whatever_the_network_has(file):
    masks = prune(layer(9.0, 9.0, 0.0, 0.1), TrainedMagnitude(file), 0.5)
    assert masks["weight"].tolist() == [[False, False, True, True]]


def test_a_weight_that_is_pruned_in_the_checkpoint_goes_first(tmp_path):
    saved = {"state_dict": {"weight": torch.zeros(1, 3)}, "masks": {"weight": torch.tensor([[False, True, True]])}}
    torch.save(saved, tmp_path / "zeros.ckpt")
    assert prune(layer(1.0, 1.0, 1.0), TrainedMagnitude(tmp_path / "zeros.ckpt"), 1 / 3)["weight"].tolist() == [
        [False, True, True]
    ]


def test_a_checkpoint_that_is_missing_or_of_another_network_is_refused(file):
    with pytest.raises(InputError, match=r"There is no checkpoint nowhere[.]ckpt: give the .ckpt file of a run"):
        TrainedMagnitude("nowhere.ckpt")
    with pytest.raises(InputError, match=r"does not fit the network: weight[.] Use a checkpoint of the same network"):
        prune(layer(1.0, 1.0), TrainedMagnitude(file), 0.5)


@pytest.mark.parametrize(("sparsity", "rounds"), [(0.2, 0), (0.36, 1), (0.5, 3), (0.9, 10), (0.99, 20)])
def test_each_round_prunes_a_fifth_of_what_is_left_until_the_sparsity_is_reached(sparsity, rounds):
    before = sparsities_before(sparsity)
    assert len(before) == rounds
    assert before == pytest.approx([1 - 0.8 ** (i + 1) for i in range(rounds)])


def fitted(tmp_path, steps, pruning, name=None):
    """Train a BoringModel of seed 0, and return its weights and the file of its checkpoint."""
    seed_everything(0, verbose=False)
    model, callbacks = BoringModel(), [pruning] if pruning else []
    trainer = Trainer(
        max_steps=steps, callbacks=callbacks, enable_checkpointing=False, default_root_dir=tmp_path, **QUIET
    )
    trainer.fit(model)
    if name:
        trainer.save_checkpoint(tmp_path / name)
    return model.layer.weight.detach().clone(), tmp_path / (name or "")


def test_any_module_is_rewound_to_its_initialization_round_by_round(tmp_path):
    start, _ = fitted(tmp_path, 0, None)
    trained, first = fitted(tmp_path, 3, PruneAtInit(0.0, isometry=None), "0.ckpt")
    assert not torch.equal(trained, start)

    rewound, _ = fitted(tmp_path, 0, PruneAtInit(0.2, criterion=TrainedMagnitude(first)))
    kept = trained.abs() >= trained.abs().flatten().sort().values[round(0.2 * 64)]
    assert torch.equal(rewound, start * kept)

    trained, second = fitted(tmp_path, 3, PruneAtInit(0.2, criterion=TrainedMagnitude(first)), "1.ckpt")
    rewound, _ = fitted(tmp_path, 0, PruneAtInit(0.36, criterion=TrainedMagnitude(second)))
    assert int((rewound != 0).sum()) == round(0.64 * 64)
    assert not ((rewound != 0) & (trained == 0)).any()  # nothing that was pruned comes back


def test_weights_that_are_kept_as_trained_are_pruned_further(tmp_path):
    trained, file = fitted(tmp_path, 3, PruneAtInit(0.5, isometry=None), "half.ckpt")
    for criterion, message in ((TrainedMagnitude(file), None), (None, "pruned already")):
        model = BoringModel()
        model.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
        trainer = Trainer(max_steps=0, callbacks=[PruneAtInit(0.75, criterion=criterion)], **QUIET)
        if message:
            with pytest.raises(InputError, match=message):
                trainer.fit(model)
        else:
            trainer.fit(model)
            assert int((model.layer.weight != 0).sum()) == 16
            assert torch.equal(model.layer.weight, trained * (model.layer.weight != 0))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page_parts, "_DPI", 50)
    monkeypatch.setattr(executors, "COMMAND", [*python(), "-m", "spl.reproduction.worker"])
    monkeypatch.setattr(executors, "_POLL", 0.05)
    return tmp_path


def saved(results, run):
    return torch.load(results[run.digest].folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_rounds_are_ordinary_runs_that_are_found_again(folder, capsys):
    names = ["LTH", "LTH-late", "LRR", "LTH-shuffled", "LTH-reinit"]
    words = ["compare", "--methods", *names, "--sparsity", "0.36", "--seeds", "1", "--jobs", "1", *TINY]
    main(words)
    results, jobs = Results(RUNS), sorted((RUNS / "jobs").iterdir())
    wanted = Comparison.of(TINY, [*map(method_named, names)], [0.36], 1).all_runs
    runs = dict(zip(names, wanted, strict=True))
    dense, masks = runs["LTH"].scored.scored, {n: Masks(saved(results, run)["masks"]) for n, run in runs.items()}
    assert {m.kept for m in masks.values()} == {round(masks["LTH"].size * 0.64)}

    first = saved(results, runs["LTH"].scored)
    for name, mask in masks["LTH"].items():  # nested
        assert not (mask & ~first["masks"][name]).any()
    magnitudes = torch.cat([first["state_dict"][f"network.{name}"].abs().flatten() for name in masks["LTH"]])
    bits = torch.cat([mask.flatten() for mask in masks["LTH"].values()])
    assert magnitudes[bits].min() >= magnitudes[~bits].max()

    assert runs["LTH-shuffled"].scored.digest == runs["LTH-reinit"].scored.digest == runs["LTH"].scored.digest
    assert masks["LTH-reinit"] == masks["LTH"]
    assert masks["LTH-shuffled"].layer_sparsity() == masks["LTH"].layer_sparsity()
    assert masks["LTH-shuffled"] != masks["LTH"]
    assert runs["LTH-late"].pretrained.steps == 1
    assert runs["LRR"].pretrained.digest == runs["LRR"].scored.digest
    assert runs["LTH"].pretrained is None
    assert dense.digest == Comparison.of(TINY, [method_named("dense")], [0.36], 1).all_runs[0].digest

    main(words)
    assert sorted((RUNS / "jobs").iterdir()) == jobs  # no run was repeated
    page = (folder / "comparison" / "tiny" / "README.md").read_text()
    assert "Trainings for one run at 36 %, counting those of the rounds before it: LTH 3; LTH-late 4; LRR 3;" in page
    assert "comparison/tiny/README.md" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["LTH", "LTH-late", "LRR"])
def test_many_rounds_are_planned_at_once(name):
    run = Comparison.of(TINY, [method_named(name)], [0.999], 1).all_runs[0]
    runs = with_ancestors([run])  # LRR needs each round twice, for its weights and for its masks
    assert len(runs) == 32 + (name == "LTH-late")
    assert len(waves(runs.values())) == 32


def test_rewound_weights_are_not_corrected():
    with pytest.raises(InputError, match=r"'LTH[+]AI' is no method: rewound weights are not corrected"):
        method_named("LTH+AI")
    assert method_named("LTH@ERK").scope == "spl.pruning.scopes.ERK"
    with pytest.raises(InputError, match=r"There is no criterion LTH-lat[.] Did you mean LTH-late[?]"):
        method_named("LTH-lat")
