"""MaskedWeights: masks held on the weights of one network, through training and checkpoints."""

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from spl.errors import InputError
from spl.masks import BoundMasks, Masks
from spl.sharding import whole_name


class MaskedWeights:
    """Keeps the pruned weights of `network` at exactly 0.0, whatever trains it.

    Gradients are masked before each optimizer step: weight decay then keeps 0 at 0, and momentum never sees a pruned
    weight. Optimizers that move weights without a gradient (Muon, noise, averages) have their weights masked again.

    Args:
        network: whose parameters the masks name.

    Attributes:
        masks: which weights are alive, on the CPU; None until the network is pruned.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.masks: Masks | None = None
        self._begin()

    @classmethod
    def of(cls, pl_module: LightningModule) -> "MaskedWeights":
        """Those of a LightningModule, which is all of it unless it says otherwise; made the first time."""
        attributes = vars(pl_module)
        if "_masked_weights" not in attributes:
            attributes["_masked_weights"] = cls(pl_module)
        held: MaskedWeights = attributes["_masked_weights"]
        return held

    def __getstate__(self) -> dict[str, Any]:
        """A copy belongs to other parameters, and no optimizer knows of it."""
        return {"network": self.network, "masks": self.masks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the network by name, tied ones once."""
        return {whole_name(name): parameter for name, parameter in self.network.named_parameters()}

    def hold(self, masks: Masks) -> None:
        """Take `masks` and set the pruned weights to exactly 0.0.

        Raises:
            InputError: a mask has no parameter of its name and shape.
        """
        masks.apply_(self.parameters)
        self.masks = masks.to("cpu")
        self._forget()

    def follow(self, optimizers: Iterable[Optimizer]) -> None:
        """Look from now on before and after every step of these optimizers, whoever makes it."""
        self._forget()
        for optimizer in optimizers:
            if optimizer not in self._followed:
                self._followed.add(optimizer)
                optimizer.register_step_pre_hook(self._before_step)
                optimizer.register_step_post_hook(self._after_step)

    def mask_gradients_(self) -> None:
        """Set the gradients of pruned weights to 0.0."""
        if self.masks is not None:
            self._bind(self.masks).mask_gradients_()

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the masks, bool tensors by name, at `masks`, and zeros in the tensors that the checkpoint refers to."""
        if self.masks is not None:
            self.masks.apply_(self.parameters)
            checkpoint["masks"] = dict(self.masks)

    def load(self, checkpoint: dict[str, Any], prefix: str = "") -> None:
        """Take the masks of a checkpoint back, if it has any.

        Args:
            checkpoint: with weights at `state_dict` that are about to be loaded, unless a strategy that shards them
                has taken them out.
            prefix: of the names of the network's parameters there.

        Raises:
            InputError: they do not fit the network, or prune weights that are not 0 there.
        """
        if "masks" not in checkpoint:
            return
        masks = Masks(checkpoint["masks"])
        self.hold(masks)
        weights = checkpoint.get("state_dict", {})
        state = {name: weights.get(prefix + name) for name in masks}
        fitting = Masks({n: mask for n, mask in masks.items() if getattr(state[n], "shape", None) == mask.shape})
        if revived := fitting.revived(state):
            counts = ", ".join(f"{name} ({count})" for name, count in revived.items())
            raise InputError(
                f"The masks of the checkpoint prune weights that are not 0 in it: {counts}. It was changed after it "
                "was written: give another one."
            )

    def _begin(self) -> None:
        self._followed: WeakSet[Optimizer] = WeakSet()
        self._forget()

    def _forget(self) -> None:
        """What depends on the masks, on the device and on what an optimizer does."""
        self._bound: BoundMasks | None = None
        self._steps: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._moving: WeakSet[Optimizer] = WeakSet()

    def _bind(self, masks: Masks) -> BoundMasks:
        if self._bound is None:
            self._bound = BoundMasks(masks, self.parameters)
        return self._bound

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Mask the gradients of a step without a closure, which is not Lightning's and so has not been announced."""
        if len(args) == 1 and kwargs.get("closure") is None:
            self.mask_gradients_()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Mask the weights again after optimizers that move pruned ones, or may: those that are not torch's own."""
        if self.masks is None:
            return
        steps = self._steps[optimizer] = self._steps.get(optimizer, 0) + 1
        due = steps & (steps - 1) == 0  # after 1, 2, 4, 8, ... steps, for some move them late
        if due and optimizer not in self._moving and self.masks.revived(self.parameters):
            rank_zero_warn("The optimizer moves weights that have no gradient; pruned ones are set back to 0.0.")
            self._moving.add(optimizer)
        if optimizer in self._moving or not type(optimizer).__module__.startswith("torch.optim."):
            self._bind(self.masks).mask_weights_()
