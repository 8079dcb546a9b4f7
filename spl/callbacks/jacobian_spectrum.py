"""A callback that measures and logs signal propagation before and during training."""

from typing import Any

from matplotlib.image import imsave
from torch import Tensor

from spl.callbacks.prune_at_init import PruneAtInit
from spl.callbacks.reporting import tensorboard
from spl.callbacks.reporting.figures import compare_spectra, draw
from spl.callbacks.scoring.batches import EvaluationBatches
from spl.callbacks.scoring.sharded_weights import check_whole
from spl.callbacks.stages import StageListener
from spl.callbacks.trainer import callbacks_of, datamodule_of, run_folder
from spl.errors import InputError
from spl.functional.undisturbed import BatchNormMode, batch_norm_text
from spl.jacobian import Spectrum, singular_values
from spl.lightning_api import LightningModule, Trainer, is_overridden, rank_zero_warn
from spl.masks.masked_weights import MaskedWeights
from spl.sparsify import Stage

_FACTOR = 3


class JacobianSpectrum(StageListener):
    """A callback that measures the singular values of the input-output Jacobian of the network.

    It measures the dense, the pruned and the corrected network, and the network while it trains: every n epochs, and
    whenever `MoveMasks` moves its masks. It logs
    `jacobian/{dense,pruned,corrected,train}/{mean,std,max,min,condition}`, histograms, and a figure of the first three
    stages, which is also saved as `spectra.png` beside the logs. It warns if the correction has not brought signals
    back: the corrected mean is not finite, more than three times as large as both the dense mean and 1, or less than a
    third of both. It also warns if the corrected mean differs from the dense one by more than a factor of 3 in a
    network with activations that have no critical gain, such as GELU and SiLU.

    The network is that of a SparseClassifier, or the forward of any other LightningModule, which must map inputs (the
    first tensor of a batch) to [N, C]. A module without a forward is refused when fit starts.

    Args:
        examples: number of training examples to measure at; null for all.
        every_n_epochs: how often to measure during training; null for never.
        batch_norm: what BatchNorm uses while measuring: running statistics (eval) or those of each batch (batch).
        chunk: examples to measure at a time; lower it when memory runs out.

    Attributes:
        spectra: the statistics of the singular values that were measured last, by stage.

    Example:
        >>> import torch
        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.demos.boring_classes import BoringModel
        >>> from spl.callbacks import JacobianSpectrum
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        >>> spectrum, model = JacobianSpectrum(examples=8), BoringModel()
        >>> largest = torch.linalg.matrix_norm(model.layer.weight, 2).item()
        >>> Trainer(callbacks=[spectrum], max_steps=1, enable_checkpointing=False, **quiet).fit(model)
        >>> abs(spectrum.spectra["dense"].max / largest - 1) < 1e-5
        True
    """

    def __init__(
        self,
        examples: int | None = 1000,
        every_n_epochs: int | None = 1,
        batch_norm: BatchNormMode = "eval",
        chunk: int = 250,
    ) -> None:
        for name, value in (("examples", examples), ("every_n_epochs", every_n_epochs), ("chunk", chunk)):
            if value is not None and value < 1:
                raise InputError(f"spectrum: {name} must be at least 1, got {value}.")
        self.examples = examples
        self.every_n_epochs = every_n_epochs
        self.batch_norm: BatchNormMode = batch_norm
        self.chunk = chunk
        self.spectra: dict[str, Spectrum] = {}
        self._values: dict[str, Tensor] = {}
        self._inputs: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics of each stage, for the table of a resumed run."""
        return {stage: spectrum.as_dict() for stage, spectrum in self.spectra.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the statistics of each stage."""
        self.spectra = {
            stage: Spectrum(**{name: float(number) for name, number in statistics.items()})
            for stage, statistics in state_dict.items()
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, before anything runs, that the module can be measured.

        Raises:
            InputError: it has no forward, or its weights will be sharded.
        """
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not is_overridden("forward", pl_module):
            raise InputError(
                f"JacobianSpectrum measures what forward computes, and {type(pl_module).__name__} has none."
            )
        if stage == "fit" and self.every_n_epochs is not None:
            check_whole(trainer, "JacobianSpectrum", "measure before training alone, every_n_epochs=None")

    def on_stage(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Measure the network at `stage`."""
        if trainer.is_global_zero:
            self._values[stage] = self.measure(trainer, pl_module, stage, trainer.global_step)

    def on_masks_moved(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the network in training."""
        if trainer.is_global_zero:
            self.measure(trainer, pl_module, "train", trainer.global_step)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the dense network if nothing prunes it."""
        if not trainer.ckpt_path and not callbacks_of(trainer, PruneAtInit):
            self.on_stage(trainer, pl_module, "dense")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of signals that the correction has not brought back, and draw the spectra of the stages."""
        values, self._values = self._values, {}
        if {"dense", "corrected"} <= values.keys():
            changes = callbacks_of(trainer, PruneAtInit)[0].changes.values()
            no_critical_gain = any(change.gain_of_dense for change in changes)
            _warn_of_change(self.spectra["dense"].mean, self.spectra["corrected"].mean, no_critical_gain)
        if values and trainer.logger is not None:
            last = self.spectra[list(values)[-1]]
            trainer.logger.log_metrics({tensorboard.START: last.mean}, step=trainer.global_step)
        writer = tensorboard.writer(trainer)
        folder = run_folder(trainer) if trainer.is_global_zero else None
        if not values or (writer is None and folder is None):  # a figure that nobody would see takes time too
            return
        mode = batch_norm_text(MaskedWeights.of(pl_module).network, self.batch_norm)
        pixels = draw(compare_spectra(values, mode))
        if writer is not None:
            tensorboard.add_picture(writer, "jacobian/spectra", pixels)
        if folder is not None:
            imsave(folder / "spectra.png", pixels)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the network every n epochs."""
        if self.due(trainer.current_epoch) and trainer.is_global_zero:
            self.measure(trainer, pl_module, "train", trainer.global_step)

    def due(self, epoch: int) -> bool:
        """Return whether to measure at the end of an epoch, counted from 0."""
        return self.every_n_epochs is not None and (epoch + 1) % self.every_n_epochs == 0

    def measure(self, trainer: Trainer, pl_module: LightningModule, stage: str, step: int) -> Tensor:
        """Return the singular values of the network as it is now; keep and log their statistics under `stage`."""
        if self._inputs is None:
            batches = EvaluationBatches(trainer, datamodule_of(trainer), limit=None, seed=0)
            self._inputs = batches.first_inputs(self.examples)
        network = MaskedWeights.of(pl_module).network
        values = singular_values(network, self._inputs, self.chunk, self.batch_norm)
        spectrum = Spectrum.of(values)
        self.spectra[stage] = spectrum
        if trainer.logger is not None:
            statistics = {f"jacobian/{stage}/{name}": value for name, value in spectrum.as_dict().items()}
            trainer.logger.log_metrics(statistics, step=step)
        if writer := tensorboard.writer(trainer):
            tensorboard.add_singular_values(writer, f"jacobian/{stage}", values, step)
        return values


def _warn_of_change(dense: float, corrected: float, no_critical_gain: bool) -> None:
    """Warn if signals explode or vanish in the corrected network and did not in the dense one.

    A correction may bring the mean from the dense one to 1, as it does for ReLU and tanh: that is no reason to warn.
    In networks with `no_critical_gain` it is one, because no theory says that the corrected mean is the better one.
    """
    if not corrected <= _FACTOR * max(dense, 1.0):
        wrong, remedy = "explode", "Name a smaller gain of the correction, such as gain=1.0, or another initializer."
    elif corrected < min(dense, 1.0) / _FACTOR:
        wrong, remedy = (
            "vanish",
            "Look for layers that keep few weights or none, and lower the sparsity, choose another scope (ERK) or "
            "another criterion; if all layers keep enough, name a larger gain of the correction, such as gain=1.4.",
        )
    elif no_critical_gain and not (dense <= _FACTOR * corrected and corrected <= _FACTOR * dense):
        wrong, remedy = (
            "change",
            "With activations such as GELU and SiLU no gain keeps signals of all sizes. If the network does not train "
            "well, choose another initializer (Orthogonal, LeCunNormal), or name a gain of the correction.",
        )
    else:
        return
    rank_zero_warn(
        f"Signals {wrong} in the corrected network: its mean Jacobian singular value is {corrected:.3g}, and that of "
        f"the dense network was {dense:.3g}. {remedy}"
    )
