"""The losses and accuracies of a classifier, in training, validation and test."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy


class ClassifierMetrics(nn.ModuleDict):
    """The metrics `loss/SPLIT` and `accuracy/SPLIT` of a classifier for the splits train, val and test.

    Args:
        num_classes: the number of classes.

    Example:
        >>> metrics = ClassifierMetrics(num_classes=2)
        >>> metrics.evaluate("val", torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]))
        >>> {name: round(float(value), 4) for name, value in metrics.read("val").items()}
        {'loss/val': 0.3709, 'accuracy/val': 1.0}
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__({"loss/train": MeanMetric(), "accuracy/train": MeanMetric()})
        for split in ("val", "test"):
            self[f"loss/{split}"] = MeanMetric()
            self[f"accuracy/{split}"] = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self._pending: list[tuple[Tensor, Tensor, int]] = []

    def add_training_batch(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note the loss and the accuracy of a batch of logits [N, classes]; `read_training` uses them."""
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        self._pending.append((loss.detach(), accuracy, len(labels)))

    def read_training(self) -> dict[str, Tensor]:
        """Return the means over the batches since the last call.

        The metrics are updated with all of these batches at once: an update a step would slow a small network.
        """
        losses, accuracies, sizes = zip(*self._pending, strict=True)
        self._pending = []
        weights = torch.tensor(sizes, device=losses[0].device)
        self._metric("loss/train").update(torch.stack(losses), weights)
        self._metric("accuracy/train").update(torch.stack(accuracies), weights)
        return self.read("train")

    def evaluate(self, split: str, logits: Tensor, labels: Tensor) -> None:
        """Update the metrics of a split with logits [N, classes] and labels [N]."""
        self._metric(f"loss/{split}").update(F.cross_entropy(logits, labels), weight=len(labels))
        self._metric(f"accuracy/{split}").update(logits, labels)

    def read(self, split: str) -> dict[str, Tensor]:
        """Return the values of a split by name, and begin anew."""
        values: dict[str, Tensor] = {}
        for name in (f"loss/{split}", f"accuracy/{split}"):
            values[name] = self._metric(name).compute()
            self._metric(name).reset()
        return values

    def _metric(self, name: str) -> Metric:
        metric = self[name]
        assert isinstance(metric, Metric)
        return metric
