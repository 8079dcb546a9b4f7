"""The record of a run: the choices that decided its masks, in words and numbers, for YAML and checkpoints."""

from collections.abc import Mapping
from typing import Any

from spl.callbacks.scoring.batches import EvaluationBatches
from spl.criteria.objective import LossOfLogits, Objective
from spl.criteria.processes import Processes
from spl.isometry import Change, Correction, Residuals
from spl.masks.masks import Masks
from spl.pruning import PruningChoices, check_sparsity
from spl.pruning.coverage import Coverage


def choices_record(
    choices: PruningChoices, isometry: Correction | None, masks: Masks, changes: Mapping[str, Change]
) -> dict[str, Any]:
    """Return the record of what was chosen and of what came of it, apart from the data that weights were scored on."""
    record: dict[str, Any] = described("criterion", choices.criterion) | {"sparsity": choices.sparsity}
    record |= described("scope", choices.scope) | described("pattern", choices.pattern)
    record |= described("schedule", choices.rounds)
    record |= {
        "minimum": choices.minimum,
        "include_bias": choices.include_bias,
        "include_embedding": choices.include_embedding,
        "exclude": list(choices.exclude or ()),
        "include": list(choices.include or ()),
        "weights": masks.size,
        "kept": masks.kept,
        "masks_sha256": masks.digest(),
    }
    record |= described("isometry", isometry) if isometry else {"isometry": "none"}
    return record | {"certificate": {name: change.certificate() for name, change in changes.items()}}


def data_record(
    choices: PruningChoices, batches: EvaluationBatches, loss: Objective, processes: Processes
) -> dict[str, Any]:
    """Return the record of the data and the loss by which the weights were scored.

    A criterion that reads only inputs has no loss, and one that reads only the shape of one batch has no data either.
    """
    if choices.criterion.reads == "shape":
        read = {"data": batches.source, "read": "the shape of one batch", "shape": list(batches.shape)}
        return read | {"batch_norm": choices.batch_norm}
    number, examples = batches.counted(processes)
    if choices.criterion.reads == "inputs":
        counts = {"batches": number, "examples": examples}
        return (
            {"data": batches.source, "read": "inputs"}
            | counts
            | {"seed": batches.seed, "batch_norm": choices.batch_norm}
        )
    return ({} if isinstance(loss, LossOfLogits) else described("loss", loss)) | {
        "data": batches.source,
        "batches": number,
        "examples": examples,
        "seed": batches.seed,
        "targets": choices.targets,
        "batch_norm": choices.batch_norm,
    }


def coverage_record(coverage: Coverage) -> dict[str, Any]:
    """Return the record of what the masks cover of the network."""
    return {"coverage": coverage._asdict()}


def coverage_text(record: Mapping[str, Any]) -> str:
    """Return what a record says about weights that stay dense; nothing if there are none, or in an older record.

    Example:
        >>> from spl.callbacks.reporting.record import coverage_text
        >>> coverage_text({"coverage": {"covered": 0.5, "sparsity": 0.45, "dense": {"encoder.weight": "frozen"}}})
        ". 50.0% of the network's weights are under masks, so it is 0.4500 sparse; dense: encoder.weight (frozen)"
    """
    coverage = Coverage(**record["coverage"]) if "coverage" in record else None
    return f". {coverage}" if coverage is not None and coverage.dense else ""


def saved_state(record: dict[str, Any], changes: Mapping[str, Change]) -> dict[str, Any]:
    """Return a record and the changes by a correction as plain values, for a checkpoint."""
    plain = {
        name: [list(value) if isinstance(value, Residuals) else value for value in change]
        for name, change in changes.items()
    }
    return {"record": record, "changes": plain}


def restored_state(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Change]]:
    """Return the record and the changes of `saved_state`, after reading in them what a resumed fit will need.

    Changes that earlier versions kept less of are left out.

    Raises:
        Exception: they are not what this package writes.
    """
    record: dict[str, Any] = dict(state["record"])
    if record:
        check_sparsity(record["sparsity"])
        coverage_text(record)
    changes = {
        name: Change(Residuals(*map(_number, before)), Residuals(*map(_number, after)), *map(_number, rest))
        for name, (before, after, *rest) in state.get("changes", {}).items()  # earlier versions have none
        if rest
    }
    return record, changes


def _number(value: Any) -> Any:
    if not isinstance(value, int | float):
        raise TypeError(f"a change by the correction is {type(value).__name__}, not a number")
    return value


def described(role: str, choice: object) -> dict[str, Any]:
    """Return the class name of `choice` at `role`, and its public attributes at `role`_args.

    Example:
        >>> from spl.callbacks.reporting.record import described
        >>> from spl.pruning.patterns import NM
        >>> described("pattern", NM(2, 4))
        {'pattern': 'NM', 'pattern_args': {'n': 2, 'm': 4}}
    """
    return {role: type(choice).__name__, f"{role}_args": {n: _plain(v) for n, v in vars(choice).items() if n[0] != "_"}}


def _plain(value: object) -> Any:
    """Return numbers, words, and lists and mappings of them; any other object as a choice of its own, or as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return described("class", value) if hasattr(value, "__dict__") else str(value)
