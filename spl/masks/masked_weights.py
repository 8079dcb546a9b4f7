"""The masks of one network, held on its weights through training and checkpoints."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from spl.errors import InputError
from spl.functional.wrappers import unwrapped
from spl.masks.binding import Binding, has_any, ids_of
from spl.masks.masked_steps import MaskedSteps, Mover, is_power_of_two
from spl.masks.masks import Masks
from spl.masks.remarks import warn_of_change
from spl.masks.saved_masks import check_digest, check_zeros, masks_in, save_masks
from spl.masks.sharding import whole_name


class MaskedWeights:
    """The masks of a network, which keep its pruned weights at exactly 0.0 whatever moves them.

    The object listens to the steps of all optimizers of the process, whoever makes and calls them, and acts on those
    that train the network. Before a step it masks the gradients: weight decay then keeps 0 at 0, and momentum never
    sees a pruned weight. Some optimizers may move weights that have no gradient: those that are not PyTorch's own, and
    those that were seen to do so (Muon, noise, averages). After their steps it masks the weights as well.

    Some changes are not made by the step of an optimizer: those by an optimizer that wraps another, and weights that
    are loaded, drawn anew or replaced. `keep` undoes them after each batch, and `check` does so earlier if they leave a
    trace. A warning says once what moved the weights. A copy of the network needs `MaskedWeights` of its own; copies of
    a LightningModule that was pruned have them.

    Without Lightning, keep the object for as long as the network is trained, and save and load its `state_dict` with
    that of the network.

    Args:
        network: the network that has the parameters named by the masks. What `torch.compile`, DistributedDataParallel
            or Fabric have wrapped stands for the network inside.

    Attributes:
        masks: the masks of the kept weights, on the CPU; None until the network is pruned.
        kept_by_callback: whether a callback does before, in and after each batch what the LightningModule would do.
        gradients_masked: whether gradients have been masked since this was last set to False.
        mover: what moves the masks while the network trains, and is asked before gradients are masked; None if nothing.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spl.masks import MaskedWeights, Masks
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> weights = MaskedWeights(layer)
        >>> weights.hold(Masks({"weight": torch.tensor([[True, False]])}))
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> layer.weight != 0
        tensor([[ True, False]])
    """

    _binding: Binding | None

    def __init__(self, network: nn.Module) -> None:
        self.network = unwrapped(network)
        self.masks: Masks | None = None
        self._begin()

    @classmethod
    def of(cls, pl_module: nn.Module) -> "MaskedWeights":
        """Return the masked weights of a LightningModule, by default of all of it; make them on the first call."""
        attributes = vars(pl_module)
        if "_masked_weights" not in attributes:
            attributes["_masked_weights"] = cls(pl_module)
        held: MaskedWeights = attributes["_masked_weights"]
        return held

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is bound to these parameters and to this process."""
        return {"network": self.network, "masks": self.masks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()  # the network may not be complete yet, so this does not look at it

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters of the network by name; tied parameters appear once."""
        return {whole_name(name): parameter for name, parameter in self.network.named_parameters()}

    def hold(self, masks: Masks) -> None:
        """Take `masks` and set the pruned weights to exactly 0.0.

        Raises:
            InputError: a mask matches no parameter in name and shape.
        """
        parameters = self.parameters
        masks.apply_(parameters)
        self.masks = masks.named_as(parameters).to("cpu")
        self.restart()

    def pause(self) -> None:
        """Leave the weights alone until `restart`, for example because a checkpoint brings masks of its own."""
        self._paused = True

    def restart(self) -> None:
        """Forget what was seen of optimizers and where the weights are in memory, because a fit begins."""
        self._forget()
        self.acting()  # writes are noticed from here on

    def move(self, masks: Masks) -> None:
        """Take other masks of the same parameters in the middle of training; weights that come start at exactly 0.0."""
        if binding := self.acting():
            binding.move_(masks)
        self.masks = masks

    def mask_gradients_(self, optimizer: Any = None) -> None:
        """Set the gradients of pruned weights to 0.0, after moving the masks if it is time for the optimizer's step."""
        if self.mover is not None and not self.mover.before_masking(optimizer):
            return  # the mover will need the gradients of pruned weights
        if binding := self.acting():
            binding.masks.mask_gradients_()
            self.gradients_masked = True

    def check(self, when: str = "between two batches") -> None:
        """Call `keep` if the weights show a trace of a write that was not made by the step of an optimizer.

        Args:
            when: see `keep`.
        """
        if (binding := self.acting()) and binding.touched():
            self.keep(when)

    def keep(self, when: str = "in a batch", look: bool = False) -> bool:
        """Set the pruned weights to exactly 0.0 again, and warn once of what moved them.

        To compare them with 0.0 costs more than to set them. So they are compared only if there is a trace of a write,
        and on the 1st, 2nd, 4th, 8th, … call. On a CPU even setting them is noticeable in larger networks: as long as
        there is no trace of a write, and no pruned weight was ever found to have moved, it is done on every eighth
        call; see `Binding.stride`.

        Args:
            when: when the weights were found to have moved, in words, for the warning.
            look: compare them with 0.0 in any case.

        Returns:
            Whether pruned weights were found that were not 0.0.

        Raises:
            InputError: a parameter was replaced by one of another shape, or no longer exists.
        """
        if self.masks is None or not (binding := self.acting()):
            return False
        touched = binding.touched()
        replaced = touched and binding.replaced()
        if replaced or (touched and not binding.fits()):
            binding = self._binding = Binding(self.network, self.masks, self.parameters)
        self._looks += 1
        self._suspicions += touched
        look = look or is_power_of_two(self._looks) or (touched and is_power_of_two(self._suspicions))
        revived = self.masks.revived(binding.parameters) if look else {}
        if revived and (what := "replaced" if replaced else "moved") not in self._warned:
            self._warned.add(what)
            warn_of_change(what, when, revived)
        if look or touched or self._warned or self._looks % binding.stride == 0:
            binding.zero_()
        return bool(revived)

    def acting(self) -> Binding | None:
        """Return the masks bound to the parameters; None if there are none, or if they may not act now."""
        if self.masks is None or self._paused:
            return None
        if self._binding is None:
            self._binding = Binding(self.network, self.masks, self.parameters)
        return self._binding

    def is_trained_by(self, optimizer: Optimizer) -> bool:
        """Return whether the optimizer trains weights that have masks."""
        try:
            binding = self.acting()
        except AttributeError:  # a copy that was never completed, because making it has failed
            return False
        except InputError:  # masks that no longer fit are an error where the network itself is trained
            return has_any(optimizer, ids_of(self.network.parameters()))
        return binding is not None and binding.is_trained_by(optimizer)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the masks to a checkpoint, bool tensors by name at `masks`, after setting the pruned weights to 0.0."""
        if self.masks is not None:
            self.masks.apply_(self.parameters)
            save_masks(self.masks, checkpoint)

    def load(self, checkpoint: dict[str, Any], prefix: str = "") -> None:
        """Restore the masks of a checkpoint, if it has any.

        Args:
            checkpoint: the checkpoint, with weights at `state_dict` that are about to be loaded, unless a strategy
                that shards weights has taken them out.
            prefix: what precedes the names of the network's parameters in the `state_dict`.

        Raises:
            InputError: the masks are not those that were saved, do not fit the network, or prune weights that are not
                0 in the checkpoint.
        """
        if "masks" not in checkpoint:
            return
        masks = Masks(checkpoint["masks"])
        self.hold(masks)
        assert self.masks is not None
        check_zeros(self.masks, {n: checkpoint.get("state_dict", {}).get(prefix + n) for n in self.masks})
        check_digest(masks, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks for a checkpoint: bool tensors by name at `masks`, and their digest; nothing without masks.

        `torch.load` reads them as data, with `weights_only=True`. `Fabric.save` and accelerate's
        `register_for_checkpointing` take this object itself, because it has this method and `load_state_dict`.
        """
        self.check("when the masks were saved")
        state: dict[str, Any] = {}
        if self.masks is not None:
            save_masks(self.masks, state)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold the masks that `state_dict` has returned, from here on, before or after the weights are loaded.

        Raises:
            InputError: these are no masks of `state_dict`, not those that were saved, or they do not fit the network.
        """
        if state == {}:
            self.masks = None
            self.restart()
            return
        masks = masks_in(state)
        masks.check_fits(self.parameters)
        check_digest(masks, state)
        self.hold(masks)

    def _begin(self) -> None:
        self.kept_by_callback = False
        self.gradients_masked = False
        self.mover: Mover | None = None
        self._forget()

    def _forget(self) -> None:
        self._paused = False
        self._binding = None
        self._looks, self._suspicions = 0, 0
        self._warned: set[str] = set()
        self._steps = MaskedSteps(self)
