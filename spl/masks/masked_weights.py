"""MaskedWeights: masks held on the weights of one network, through training and checkpoints."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from spl.errors import InputError
from spl.masks.binding import Binding, has_any, ids_of
from spl.masks.masked_steps import MaskedSteps, is_due, warn
from spl.masks.masks import Masks
from spl.masks.sharding import whole_name


class MaskedWeights:
    """Keeps the pruned weights of `network` at exactly 0.0, whatever moves them, for as long as it lives.

    It listens to the steps of all optimizers of the process, whoever makes and calls them, and acts on those that
    train the network. Before a step it masks the gradients: weight decay then keeps 0 at 0, and momentum never sees a
    pruned weight. After the step of an optimizer that may move weights without a gradient (one that is not PyTorch's
    own, or has been seen to: Muon, noise, averages) it masks the weights.

    What no step announces (an optimizer that wraps another, weights that are loaded, drawn anew or replaced) is
    undone by `keep`, after each batch, and before that by `check`, where it leaves a trace. A warning says once what
    moved the weights.

    Args:
        network: whose parameters the masks name.

    Attributes:
        masks: which weights are alive, on the CPU; None until the network is pruned.
        kept_by_callback: whether a callback does before, in and after each batch what the LightningModule would do.
        gradients_masked: whether gradients have been masked since this was last set to False.
    """

    _binding: Binding | None

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.masks: Masks | None = None
        self._begin()

    @classmethod
    def of(cls, pl_module: nn.Module) -> "MaskedWeights":
        """Return those of a LightningModule, which is all of it unless it says otherwise; made the first time."""
        attributes = vars(pl_module)
        if "_masked_weights" not in attributes:
            attributes["_masked_weights"] = cls(pl_module)
        held: MaskedWeights = attributes["_masked_weights"]
        return held

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to these very parameters and to this process."""
        return {"network": self.network, "masks": self.masks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()  # without a look at the network, which need not be whole yet

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
        self.restart()

    def pause(self) -> None:
        """Leave the weights alone until `restart`, as when a checkpoint with masks of its own is about to be loaded."""
        self._paused = True

    def restart(self) -> None:
        """Forget what was seen of optimizers, and which memory the weights have: a fit begins."""
        self._forget()
        self.acting()  # so that what is written from here on is noticed

    def mask_gradients_(self) -> None:
        """Set the gradients of pruned weights to 0.0."""
        if binding := self.acting():
            binding.masks.mask_gradients_()
            self.gradients_masked = True

    def check(self, when: str = "between two batches") -> None:
        """Do what `keep` does if the weights show a trace of a write that no optimizer's step announced.

        Args:
            when: see `keep`.
        """
        if (binding := self.acting()) and binding.touched():
            self.keep(when)

    def keep(self, when: str = "in a batch", look: bool = False) -> bool:
        """Set the pruned weights to exactly 0.0 again, and warn once of what moved them.

        Looking at them costs more than setting them to 0.0. So it is done where there is a trace of a write, and the
        1st, 2nd, 4th, 8th, … time. On a CPU even setting them is felt in larger networks: while there is no trace of a
        write, and none was found so far, it is done every eighth time; see `Binding.stride`.

        Args:
            when: when they were found to be moved, in words, for the warning.
            look: look at them in any case.

        Returns:
            Whether pruned weights were found that were not 0.0.

        Raises:
            InputError: a parameter was replaced by one of another shape, or is gone.
        """
        if self.masks is None or not (binding := self.acting()):
            return False
        touched = binding.touched()
        replaced = touched and binding.replaced()
        if replaced or (touched and not binding.fits()):
            binding = self._binding = Binding(self.network, self.masks, self.parameters)
        self._looks += 1
        self._suspicions += touched
        look = look or is_due(self._looks) or (touched and is_due(self._suspicions))
        revived = self.masks.revived(binding.parameters) if look else {}
        if revived:
            self._say("replaced" if replaced else "moved", when, revived)
        if look or touched or self._said or self._looks % binding.stride == 0:
            binding.zero_()
        return bool(revived)

    def acting(self) -> Binding | None:
        """Return the masks bound to the parameters; None where there are none, or none that may act yet."""
        if self.masks is None or self._paused:
            return None
        if self._binding is None:
            self._binding = Binding(self.network, self.masks, self.parameters)
        return self._binding

    def is_trained_by(self, optimizer: Optimizer) -> bool:
        """Return whether masks act on what the optimizer trains; of other optimizers' networks nothing is asked."""
        if self.masks is None or self._paused:
            return False
        if self._binding is not None:
            return self._binding.is_trained_by(optimizer)
        return has_any(optimizer, ids_of(self.network.parameters()))

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
        self.kept_by_callback = False
        self.gradients_masked = False
        self._forget()

    def _forget(self) -> None:
        self._paused = False
        self._binding = None
        self._looks, self._suspicions = 0, 0
        self._said: set[str] = set()
        self._steps = MaskedSteps(self)

    def _say(self, what: str, when: str, revived: Mapping[str, int]) -> None:
        """Warn, once a fit, of pruned weights that something else than an optimizer's step has made other than 0.0."""
        if what in self._said:
            return
        self._said.add(what)
        counts = ", ".join(f"{name} ({count})" for name, count in revived.items())
        how = {
            "moved": "They were written to by something that is no optimizer's step, such as load_state_dict, "
            "reset_parameters, `.data`, or an optimizer that wraps another.",
            "replaced": "Another parameter has taken the place of a pruned one; optimizers that were made before do "
            "not train it.",
        }[what]
        warn(f"Pruned weights were not 0.0 {when}, and are set back to 0.0: {counts}. {how}")
