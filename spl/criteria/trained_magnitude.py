"""The magnitude that each weight has after training, which finds lottery tickets round by round."""

from pathlib import Path

from torch import Tensor

from spl.criteria.criterion import Criterion, Scores, Subject
from spl.errors import InputError
from spl.files import read_checkpoint

_PREFIX = "network."  # of the network's weights in the checkpoint of a SparseClassifier


class TrainedMagnitude(Criterion):
    """The magnitude `|w|` that each weight has in a checkpoint: one round of iterative magnitude pruning (IMP).

    Frankle & Carbin 2019 (arXiv:1803.03635): train, prune the smallest trained weights, set the others back to their
    values at initialization, and train again. The network that is pruned has these values: it is drawn with the same
    seed as the one that was trained, or starts from a checkpoint of an early step (late rewinding, Frankle et al. 2020,
    arXiv:1912.05671), or from the trained weights themselves (learning rate rewinding, Renda et al. 2020,
    arXiv:2003.02389). With another seed it is the control that is initialized anew, and inside `ShuffledInLayers` the
    control whose masks are shuffled. `spl compare --methods LTH` makes all rounds.

    Weights that are pruned in the checkpoint score less than all others, so the masks of the rounds are nested.

    Args:
        checkpoint: a checkpoint that `spl fit`, or any Trainer with `PruneAtInit`, has written for the same network.

    Raises:
        InputError: there is no such file, or it is no checkpoint of this network.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from spl.criteria import TrainedMagnitude
        >>> from spl.pruning import prune
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"weight": torch.tensor([[0.1, -2.0, 1.0, 0.3]])}}, f"{folder}/last.ckpt")
        ...     prune(nn.Linear(4, 1), TrainedMagnitude(f"{folder}/last.ckpt"), sparsity=0.5)["weight"]
        tensor([[False,  True,  True, False]])
    """

    needs_data = False
    takes_pruned = True

    def __init__(self, checkpoint: str | Path) -> None:
        if not Path(checkpoint).exists():
            raise InputError(f"There is no checkpoint {checkpoint}: give the .ckpt file of a run that has ended.")
        self.checkpoint = str(checkpoint)

    def __call__(self, subject: Subject) -> Scores:
        """Return the magnitudes in the checkpoint, and -1 for the weights that are pruned there."""
        saved = read_checkpoint(self.checkpoint)
        weights, masks = saved["state_dict"], saved.get("masks", {})
        found = {name: weights.get(name, weights.get(_PREFIX + name)) for name in subject.weights}
        wrong = [name for name, weight in found.items() if not _fits(weight, subject.weights[name])]
        wrong += [f"{name} (mask)" for name, mask in masks.items() if name in found and not _fits(mask, found[name])]
        if wrong:
            raise InputError(
                f"{self.checkpoint} does not fit the network: {', '.join(wrong)}. Use a checkpoint of the same "
                "network, or leave weights that it does not have out with exclude."
            )
        scores = {name: weight.abs() for name, weight in found.items()}
        for name in scores.keys() & masks.keys():
            scores[name].masked_fill_(~masks[name], -1.0)
        return {name: score.to(subject.weights[name].device) for name, score in scores.items()}


def _fits(saved: object, weight: object) -> bool:
    return isinstance(saved, Tensor) and isinstance(weight, Tensor) and saved.shape == weight.shape
