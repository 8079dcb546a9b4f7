"""The table at the end of fit: what pruning and correction did, layer by layer."""

from collections.abc import Mapping

from tabulate import tabulate

from spl.isometry import Change
from spl.jacobian import Spectrum
from spl.masks import Masks


def dead_outputs(masks: Masks) -> dict[str, int]:
    """How many output units or channels of each layer have lost every incoming weight; biases have none."""
    return {name: int((~mask.flatten(1).any(1)).sum()) if mask.ndim > 1 else 0 for name, mask in masks.items()}


def layer_table(masks: Masks, changes: Mapping[str, Change]) -> str:
    """One row a layer: weights, kept, sparsity, dead outputs, isometry residuals before and after; then the total.

    The residuals of the convolutions as operators have columns of their own where they differ from the matrices'.
    """
    dead = dead_outputs(masks)
    sparsity = masks.layer_sparsity()
    kinds = ["isometry"]
    if any(residuals.operator != residuals.matrix for change in changes.values() for residuals in change):
        kinds.append("operator")
    rows = [
        [
            name,
            mask.numel(),
            int(mask.sum()),
            f"{sparsity[name]:.4f}",
            dead[name],
            *(f"{residuals[i]:.3f}" for i in range(len(kinds)) for residuals in changes.get(name, ())),
        ]
        for name, mask in masks.items()
    ]
    rows.append(["total", masks.size, masks.kept, f"{masks.sparsity:.4f}", sum(dead.values())])
    headers = ["layer", "weights", "kept", "sparsity", "dead outputs"]
    for kind in kinds:
        headers += [f"{kind} before", "after"]
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))


def spectrum_table(spectra: Mapping[str, Spectrum]) -> str:
    """One row a stage: statistics of the Jacobian singular values."""
    rows = [[stage, *spectrum.as_dict().values()] for stage, spectrum in spectra.items()]
    return tabulate(rows, ["Jacobian", "mean", "std", "max", "min", "condition"], floatfmt=".4g")
