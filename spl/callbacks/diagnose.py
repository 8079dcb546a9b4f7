"""A callback that diagnoses before the first training step whether the network will train."""

from typing import Any

from spl.callbacks.base import SplCallback
from spl.callbacks.prune_at_init import PruneAtInit
from spl.callbacks.reporting import tensorboard
from spl.callbacks.scoring.batches import LabelledBatches
from spl.callbacks.scoring.sharded_weights import check_whole
from spl.callbacks.trainer import callbacks_of, datamodule_of, run_folder
from spl.classifier import SparseClassifier
from spl.diagnosis import Diagnosis, diagnose
from spl.errors import InputError
from spl.files import write_whole
from spl.lightning_api import Callback, LightningModule, Trainer


class Diagnose(SplCallback):
    """A callback that measures the network when fit starts, and reports whether it will train; see `spl.diagnosis`.

    The network is measured pruned and corrected, or as a checkpoint left it. The callback prints one page, writes it as
    `diagnosis.json` beside the logs, and logs it as text and as scalars `diagnosis/*`. It must come after PruneAtInit
    among the callbacks.

    Args:
        examples: number of training examples to measure at; null for all.
        chunk: number of examples to measure at a time; lower it when memory runs out.

    Attributes:
        diagnosis: the result; None before fit, and on all processes except the first.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from spl import PruneAtInit
        >>> from spl.callbacks import Diagnose
        >>> diagnose = Diagnose(examples=500)
        >>> callbacks = [PruneAtInit(sparsity=0.9), diagnose]
        >>> trainer = Trainer(callbacks=callbacks, logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> diagnose.diagnosis is None  # until trainer.fit(SparseClassifier(network), MNISTSample())
        True
    """

    def __init__(self, examples: int | None = 1000, chunk: int = 250) -> None:
        for name, value in (("examples", examples), ("chunk", chunk)):
            if value is not None and value < 1:
                raise InputError(f"Diagnose: {name} must be at least 1, got {value}.")
        self.examples = examples
        self.chunk = chunk
        self.diagnosis: Diagnosis | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check, before anything runs, that the module can be measured.

        Raises:
            InputError: it cannot, or PruneAtInit comes after this callback.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        if not isinstance(pl_module, SparseClassifier):
            raise InputError(f"Diagnose measures a SparseClassifier, got {type(pl_module).__name__}.")
        check_whole(trainer, "Diagnose", "diagnose on one device")
        if datamodule_of(trainer) is None:
            raise InputError("Diagnose measures at training examples: pass a DataModule to fit.")
        order = callbacks_of(trainer, Callback)
        if any(order.index(pruning) > order.index(self) for pruning in callbacks_of(trainer, PruneAtInit)):
            raise InputError("Diagnose comes before PruneAtInit, and would measure the dense network: put it last.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the network, and print, write and log the diagnosis."""
        datamodule = datamodule_of(trainer)
        if not trainer.is_global_zero or datamodule is None or not isinstance(pl_module, SparseClassifier):
            return
        inputs, labels = LabelledBatches(trainer, datamodule, limit=None, seed=0).first(self.examples)
        pruning = next(iter(callbacks_of(trainer, PruneAtInit)), PruneAtInit(isometry=None))
        self.diagnosis = diagnose(
            pl_module.network,
            pl_module.masks,
            inputs,
            labels,
            gains={name: change.gain for name, change in pruning.changes.items()},
            chunk=self.chunk,
            limits=pruning.record.get("collapse_sparsity"),
        )
        print(f"\n{self.diagnosis}", flush=True)
        self._log(trainer, self.diagnosis)

    def _log(self, trainer: Trainer, diagnosis: Diagnosis) -> None:
        if folder := run_folder(trainer):
            write_whole(folder / "diagnosis.json", diagnosis.to_json().encode())
            print(f"\nThe same as JSON: {folder / 'diagnosis.json'}")
        if trainer.logger is not None:
            trainer.logger.log_metrics(_scalars(diagnosis), step=trainer.global_step)
        if writer := tensorboard.writer(trainer):
            tensorboard.add_page(writer, "diagnosis", str(diagnosis), trainer.global_step)


def _scalars(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the numbers of a diagnosis, by the name of the scalar."""
    scalars: dict[str, Any] = {"diagnosis/effective_sparsity/global": diagnosis.effective_sparsity}
    scalars |= {f"diagnosis/jacobian/{name}": value for name, value in diagnosis.jacobian.as_dict().items()}
    for name, layer in diagnosis.layers.items():
        values = {
            "effective_sparsity": layer.effective_sparsity,
            "residual": layer.residual,
            "floor": layer.floor,
            "layer_jacobian": layer.jacobian.mean,
            "signal": layer.signal,
            "gradient": layer.gradient,
        }
        scalars |= {f"diagnosis/{kind}/{tensorboard.layer(name)}": value for kind, value in values.items()}
    return scalars
