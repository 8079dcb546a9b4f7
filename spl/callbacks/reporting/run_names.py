"""The names that tell runs apart in TensorBoard: of their folders, and of trials in the HPARAMS tab."""

from spl.lightning_api import LightningModule
from spl.masks.masked_weights import MaskedWeights


def network_name(module: LightningModule) -> str:
    """Return the name of the class of the network that a module trains, or of the module if it is the network itself.

    Example:
        >>> from spl import SparseClassifier
        >>> from spl.callbacks.reporting.run_names import network_name
        >>> from spl.networks import MLP
        >>> network_name(SparseClassifier(MLP()))
        'MLP'
    """
    return type(MaskedWeights.of(module).network).__name__


def method_name(criterion: str, isometry: str) -> str:
    """Return the name of a method: its criterion, and the correction if there is one.

    Args:
        criterion: the name of the class of the criterion.
        isometry: the name of the class of the correction, or none.

    Example:
        >>> from spl.callbacks.reporting.run_names import method_name
        >>> method_name("SNIP", "none"), method_name("SNIP", "ApproximateIsometry")
        ('SNIP', 'SNIP+ApproximateIsometry')
    """
    return criterion if isometry == "none" else f"{criterion}+{isometry}"


def run_name(network: str, criterion: str, isometry: str, sparsity: float) -> str:
    """Return the name of a run that its user has given none: network, method and sparsity.

    Args:
        network: the name of the class of the network.
        criterion: the name of the class of the criterion.
        isometry: the name of the class of the correction, or none.
        sparsity: the share of weights to remove.

    Example:
        >>> from spl.callbacks.reporting.run_names import run_name
        >>> run_name("MLP", "SNIP", "none", 0.9), run_name("MLP", "SNIP", "none", 0.0)
        ('MLP-SNIP-0.9', 'MLP-dense')
    """
    return f"{network}-{method_name(criterion, isometry)}-{sparsity:g}" if sparsity else f"{network}-dense"
