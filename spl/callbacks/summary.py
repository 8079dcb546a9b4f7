"""A callback that prints tables at the end of fit."""

from spl.callbacks.base import SplCallback
from spl.callbacks.jacobian_spectrum import JacobianSpectrum
from spl.callbacks.prune_at_init import PruneAtInit
from spl.callbacks.reporting.tables import layer_table, spectrum_table
from spl.callbacks.trainer import callbacks_of, run_folder
from spl.functional.undisturbed import batch_norm_text
from spl.lightning_api import LightningModule, Trainer
from spl.masks.masked_weights import MaskedWeights
from spl.pruning.parameters import oriented_masks


class Summary(SplCallback):
    """A callback that prints at the end of fit what was pruned and corrected in each layer, and the spectra.

    The last line is the command that shows more in TensorBoard.

    Example:
        >>> import torch
        >>> from pytorch_lightning import Trainer
        >>> from pytorch_lightning.demos.boring_classes import BoringModel
        >>> from spl import PruneAtInit
        >>> from spl.callbacks import Summary
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        >>> callbacks = [PruneAtInit(sparsity=0.5, isometry=None), Summary()]
        >>> Trainer(callbacks=callbacks, max_steps=1, enable_checkpointing=False, **quiet).fit(BoringModel())
        <BLANKLINE>
        layer           weights    kept    sparsity    dead outputs
        ------------  ---------  ------  ----------  --------------
        layer.weight         64      32      0.5000               0
        total                64      32      0.5000               0
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the tables on the first process."""
        if not trainer.is_global_zero:
            return
        weights = MaskedWeights.of(pl_module)
        if weights.masks is not None:
            changes = [pruning.changes for pruning in callbacks_of(trainer, PruneAtInit)]
            masks = oriented_masks(weights.network, weights.masks)
            print("\n" + layer_table(masks, changes[0] if changes else {}))
        for spectrum in callbacks_of(trainer, JacobianSpectrum):
            print("\n" + spectrum_table(spectrum.spectra))
            if mode := batch_norm_text(MaskedWeights.of(pl_module).network, spectrum.batch_norm):
                print(mode)
        if folder := run_folder(trainer):
            print(f"\nLook at it: tensorboard --logdir {folder}")
