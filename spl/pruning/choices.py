"""The choices that decide which weights of a network are pruned."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from spl.criteria import ConnectionSensitivity, Criterion, Targets, scoring_loss
from spl.criteria.objective import LossOfLogits
from spl.criteria.schedules import Schedule
from spl.errors import InputError
from spl.functional.undisturbed import BatchNormMode
from spl.pruning.parameters import prunable_parameters, transposed_parameters
from spl.pruning.pattern import Shape
from spl.pruning.patterns import Unstructured
from spl.pruning.rule import Rule, check_sparsity, keep_count


@dataclass(frozen=True)
class PruningChoices(Rule):
    """Everything that decides which weights are pruned, apart from the network and the data.

    Args:
        scope: how the kept weights are divided among the layers (the sparsity distribution): those of the largest
            scores over all layers (Global), one sparsity for all layers (Uniform), or sparsities by shape (ERK), by
            depth (SmartRatio) or by name (GivenDensities).
        pattern: which weights are kept or pruned together (the sparsity type): single weights (Unstructured), n of
            every m along the inputs (NM) or along both axes (TransposableNM), blocks (Blocks) or output channels
            (Channels).
        minimum: the number of weights that every layer keeps in any case, against layer collapse.
        sparsity: the share of weights to remove, in [0, 1). At 0 a fit is bit for bit the dense one.
        criterion: what scores the weights (their importance).
        schedule: the rounds of pruning, each of which scores what the round before has left; null for the
            criterion's own.
        targets: what a classifier's scoring loss compares the prediction with: labels, or without labels the uniform
            distribution or the network's own prediction, as logits or as softmax.
        batch_norm: how BatchNorm normalizes while weights are scored: by running statistics, which are fresh at
            initialization (eval), or by those of each batch (batch).
        include_bias: prune biases too, as the paper counts them.
        include_embedding: prune embeddings too. A batch scores only the rows of its own tokens.
        exclude: shell patterns of parameter names that stay dense, such as `fc7.*` or `*.bias`.
        include: shell patterns of names of parameters that are pruned besides the weights of Linear, convolutional,
            attention and recurrent layers, such as `experts.*`. They must have two or more axes, and the first counts
            as outputs. A correction takes those of two axes as matrices, and leaves others as they are.

    Raises:
        InputError: the sparsity lies outside [0, 1), the minimum is negative, or targets is none of the above.

    Example:
        >>> from spl.pruning.scopes import ERK
        >>> choices = PruningChoices(sparsity=0.95, scope=ERK(), include_bias=True)
        >>> type(choices.criterion).__name__, choices.minimum
        ('ConnectionSensitivity', 0)
    """

    sparsity: float = 0.9
    criterion: Criterion = ConnectionSensitivity()
    schedule: Schedule | None = None
    targets: Targets = "labels"
    batch_norm: BatchNormMode = "eval"
    include_bias: bool = False
    include_embedding: bool = False
    exclude: list[str] | None = None
    include: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity(self.sparsity)
        scoring_loss(self.targets)

    @property
    def loss(self) -> LossOfLogits:
        """The loss that scores a classifier, on batches (inputs [N, ...], labels [N])."""
        return LossOfLogits(scoring_loss(self.targets))

    @property
    def rounds(self) -> Schedule:
        """The schedule that was asked for, or the criterion's own."""
        return self.schedule or self.criterion.schedule

    def parameters(self, network: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters of `network` that are pruned, by name; see `prunable_parameters`.

        Raises:
            InputError: there are none, or a pattern is asked for that a weight cannot have.
        """
        found = prunable_parameters(
            network, self.include_bias, self.exclude or (), self.include_embedding, self.include or ()
        )
        if type(self.pattern) is not Unstructured and (transposed := transposed_parameters(network, found)):
            raise InputError(
                f"{', '.join(transposed)}: the weight of a Conv1D of Hugging Face is [in, out], and the pattern "
                f"{type(self.pattern).__name__} takes weights as [out, in]. Leave it out with exclude, or use pattern: "
                "Unstructured."
            )
        return found

    def sizes(self, parameters: Mapping[str, Tensor]) -> tuple[dict[str, Shape], int]:
        """Return the shapes of `parameters`, by name, and how many of their weights are to be kept."""
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        return shapes, keep_count(sum(parameter.numel() for parameter in parameters.values()), self.sparsity)
