"""Tables that are printed at the end of fit, about pruning, correction and spectra."""

from collections.abc import Callable, Mapping, Sequence

from tabulate import tabulate

from spl.functional.text_table import Column, text_table
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
    dead, sparsity = dead_outputs(masks), masks.layer_sparsity()
    shares = [*(sparsity[name] for name in masks), masks.sparsity]
    counts = [*(int(mask.sum()) for mask in masks.values()), masks.kept]
    names = [*masks, "total"]
    columns = [
        Column("layer", names, short_cells=[name.removesuffix(".weight") for name in names]),
        Column("weights", [str(size) for size in (*(mask.numel() for mask in masks.values()), masks.size)]),
        Column("kept", [str(count) for count in counts]),
        Column("sparsity", [f"{s:.4f}" for s in shares], "sparse", [f"{s:.3f}" for s in shares]),
        Column("dead outputs", [str(d) for d in (*dead.values(), sum(dead.values()))], "dead"),
    ]
    return text_table([*columns, *_changes(changes, list(masks))])


def _changes(changes: Mapping[str, Change], names: Sequence[str]) -> list[Column]:
    """Return the columns about the correction, with an empty cell for each layer without one and for the total."""
    if not changes:
        return []
    found = [changes.get(name) for name in names]

    def column(title: str, value: Callable[[Change], object], form: str = "", short: str = "") -> Column:
        brief = form.replace(".4f", ".3g")
        wide, narrow = ([format(value(c), f) if c else "" for c in (*found, None)] for f in (form, brief))
        return Column(title, wide, short, narrow)

    columns = [
        column("isometry before", lambda c: c.before.matrix, ".4f", "before"),
        column("after", lambda c: c.after.matrix, ".4f", "after"),
        column("floor", lambda c: c.floor, ".4f", "floor"),
    ]
    if any(r.operator != r.matrix for change in changes.values() for r in (change.before, change.after)):
        columns.append(column("operator before", lambda c: c.before.operator, ".4f", "operator"))
        columns.append(column("after", lambda c: c.after.operator, ".4f", "op after"))
    columns.append(column("rank", lambda c: c.rank))
    columns.append(column("moved", lambda c: c.moved, ".2f"))
    columns.append(column("vanished", lambda c: c.vanished, "", "gone"))
    return columns


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
