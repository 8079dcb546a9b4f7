"""Compare the time that each criterion takes on one batch with that of one plain forward and backward pass.

The networks are MLP-7 at batch 100, and ResNet-20 and ResNet-32 at batch 64. Each criterion runs one round, on the same
path as in `spl.pruning.score`, without loading batches and without selection. ProsPr takes its three steps and the
final loss on that batch. SynFlow, NPB, PHEW and SAO score no batch: a round of SynFlow is one example in float64, NPB
constructs masks of a tenth of the weights and counts their paths, PHEW walks until a tenth of the weights is kept, and
SAO constructs such masks. All on one thread.

Claim: on the ResNets, ConnectionSensitivity / forward and backward <= 1.1, GraSP <= 4.

    python benchmarks/criteria.py
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from ratios import compare
from torch import Tensor, nn

from spl.criteria import (
    NPB,
    NTKSAP,
    PHEW,
    PX,
    SAO,
    ConnectionSensitivity,
    Criterion,
    GraSP,
    Magnitude,
    ProsPr,
    Subject,
    SynFlow,
    scoring_loss,
)
from spl.criteria.objective import LossOfLogits
from spl.networks import MLP, ResNet
from spl.pruning import prunable_parameters

CRITERIA = (
    ConnectionSensitivity(),
    GraSP(),
    ProsPr(),
    NTKSAP(draws=1),
    NPB(),
    SAO(),
    SynFlow(),
    PX(),
    PHEW(),
    Magnitude(),
)


def plain(network: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    def step() -> None:
        network.zero_grad()
        F.cross_entropy(network(inputs), labels).backward()

    return step


def scoring(network: nn.Module, criterion: Criterion, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    weights = {name: p.detach() for name, p in prunable_parameters(network).items()}
    keep = sum(weight.numel() for weight in weights.values()) // 10
    loss = LossOfLogits(scoring_loss("labels"))
    memo: dict[Criterion, object] = {}

    def score() -> None:
        criterion(Subject(network, weights, None, [(inputs, labels)], loss, keep, memo))

    return score


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for title, network, inputs, repeats in (
        ("MLP-7, batch 100", MLP(), torch.randn(100, 784), 200),
        ("ResNet-20, batch 64", ResNet(blocks_per_stage=3), torch.randn(64, 3, 32, 32), 10),
        ("ResNet-32, batch 64", ResNet(blocks_per_stage=5), torch.randn(64, 3, 32, 32), 7),
    ):
        network.eval()
        labels = torch.arange(len(inputs)) % 10
        candidates = {"forward and backward": plain(network, inputs, labels)}
        for criterion in CRITERIA:
            candidates[type(criterion).__name__] = scoring(network, criterion, inputs, labels)
        compare(title, candidates, repeats)


if __name__ == "__main__":
    main()
