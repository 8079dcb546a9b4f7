import torch
from subjects import chain, subject
from torch import nn

from spl.criteria import FORCE, ConnectionSensitivity, IterativeSNIP
from spl.criteria.schedules import Exponential, OneShot
from spl.masks.masks import Masks
from spl.pruning import prune

BATCH = (torch.ones(1, 1, dtype=torch.float64), torch.tensor([0]))


class Score(nn.Linear):
    """Logits (product of two weights + a third, 0)."""

    def __init__(self) -> None:
        super().__init__(3, 1, bias=False)
        self.weight.data = torch.tensor([[2.0, 0.5, 0.3]], dtype=torch.float64)

    def forward(self, x):
        a, b, c = self.weight[0]
        return torch.stack([x[:, 0] * (a * b + c), 0 * x[:, 0]], 1)


def test_force_scores_pruned_weights_by_their_dense_values_and_the_gradient_of_the_pruned_network():
    # with b pruned: dL/d(a, b, c) ∝ (b, a, 1) = (0, 2, 1), times the dense (2, 0.5, 0.3): (0, 1, 0.3)
    masks = Masks({"weight": torch.tensor([[True, False, True]])})
    scores = FORCE()(subject(Score(), [BATCH], masks))["weight"][0]
    torch.testing.assert_close(scores, torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64) / 1.3)


def test_a_weight_returns_under_force_and_never_under_iterative_snip():
    # scores ∝ (ab, ab, c) = (1.2, 1.2, 1.1) keep a; with only a kept they are (0, 1.2, 1.1): b is kept and a pruned
    def masks(criterion, rounds):
        network = Score()
        network.weight.data = torch.tensor([[1.0, 1.2, 1.1]], dtype=torch.float64)
        return prune(network, criterion, 2 / 3, [BATCH], schedule=rounds)["weight"][0]

    class Twice(OneShot):
        def keeps(self, size, keep):
            return [keep, keep]

    assert masks(FORCE(), OneShot()).tolist() == [True, False, False]
    assert masks(FORCE(), Twice()).tolist() == [False, True, False]
    assert masks(IterativeSNIP(), Twice()).tolist() == [True, False, False]


def test_both_are_connection_sensitivity_in_the_first_round():
    network = chain([[0.3, -0.2], [0.5, 0.1]], [[1.0, -1.0], [0.4, 0.2]])
    batches = [(torch.randn(5, 2, dtype=torch.float64), torch.randint(2, (5,)))]
    expected = ConnectionSensitivity()(subject(network, batches))
    for criterion in (IterativeSNIP(), FORCE()):
        scores = criterion(subject(network, batches))
        assert all(torch.equal(scores[name], expected[name]) for name in expected)


def test_rounds_and_revival_are_those_of_the_paper():
    for criterion, revives in ((IterativeSNIP(), False), (FORCE(), True)):
        assert isinstance(criterion.schedule, Exponential)
        assert (criterion.schedule.rounds, criterion.revives) == (60, revives)
