"""Tables that are printed at the end of fit, about pruning, correction and spectra."""

from collections.abc import Mapping

from tabulate import tabulate

from spl.isometry import Change
from spl.jacobian import Spectrum
from spl.masks.masks import Masks


def dead_outputs(masks: Masks) -> dict[str, int]:
    """Count the output units or channels of each layer that have lost every incoming weight; 0 for biases.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.callbacks.reporting.tables import dead_outputs
        >>> dead_outputs(Masks({"fc.weight": torch.tensor([[True, False], [False, False]])}))
        {'fc.weight': 1}
    """
    return {name: int((~mask.flatten(1).any(1)).sum()) if mask.ndim > 1 else 0 for name, mask in masks.items()}


def layer_table(masks: Masks, changes: Mapping[str, Change]) -> str:
    """Return a table with one row for each layer, about its pruning and its correction, and a row for the total.

    The columns are: weights, kept, sparsity, dead outputs; the isometry residual before and after the correction, and
    its floor; the residuals of the convolutions as operators, if they differ; the structural rank; how far the weights
    moved, and how many of them vanished.

    Example:
        >>> import torch
        >>> from spl import Masks
        >>> from spl.callbacks.reporting.tables import layer_table
        >>> print(layer_table(Masks({"fc.weight": torch.eye(2, dtype=torch.bool)}), changes={}))
        layer        weights    kept    sparsity    dead outputs
        ---------  ---------  ------  ----------  --------------
        fc.weight          4       2      0.5000               0
        total              4       2      0.5000               0
    """
    dead = dead_outputs(masks)
    sparsity = masks.layer_sparsity()
    operators = any(r.operator != r.matrix for change in changes.values() for r in (change.before, change.after))
    rows = [
        [
            name,
            mask.numel(),
            int(mask.sum()),
            f"{sparsity[name]:.4f}",
            dead[name],
            *_cells(changes, name, operators),
        ]
        for name, mask in masks.items()
    ]
    rows.append(["total", masks.size, masks.kept, f"{masks.sparsity:.4f}", sum(dead.values())])
    headers = ["layer", "weights", "kept", "sparsity", "dead outputs"]
    if changes:
        headers += ["isometry before", "after", "floor"]
        headers += ["operator before", "after"] if operators else []
        headers += ["rank", "moved", "vanished"]
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))


def _cells(changes: Mapping[str, Change], name: str, operators: bool) -> list[str]:
    if name not in changes:
        return []
    change = changes[name]
    residuals = [change.before.matrix, change.after.matrix, change.floor]
    if operators:
        residuals += [change.before.operator, change.after.operator]
    return [*(f"{r:.4f}" for r in residuals), str(change.rank), f"{change.moved:.2f}", str(change.vanished)]


def spectrum_table(spectra: Mapping[str, Spectrum]) -> str:
    """Return a table of statistics of the Jacobian singular values with one row for each stage.

    Example:
        >>> import torch
        >>> from spl.callbacks.reporting.tables import spectrum_table
        >>> from spl.jacobian import Spectrum
        >>> print(spectrum_table({"dense": Spectrum.of(torch.tensor([[1.0, 2.0]]))}))
        Jacobian      mean    std    max    min    condition
        ----------  ------  -----  -----  -----  -----------
        dense          1.5    0.5      2      1            2
    """
    rows = [[stage, *spectrum.as_dict().values()] for stage, spectrum in spectra.items()]
    return tabulate(rows, ["Jacobian", "mean", "std", "max", "min", "condition"], floatfmt=".4g")
