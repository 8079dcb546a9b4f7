"""The help of `spl fit` and its relatives: one page of the most used flags, read from the sources without torch."""

import ast
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_WIDTH = 79
_COLUMN = 28  # where explanations begin
_PACKAGE = Path(__file__).parents[1]

_RUN = {
    "config": "a YAML file or the name of one of spl's (see `spl configs`); of several, the last one wins",
    "print_config": "print the whole configuration, and run nothing",
    "name": "the run's name: logs go to lightning_logs/NAME",
    "seed_everything": "the seed of all random numbers (default: random)",
    "test_after_fit": "test the final weights (default: true)",
    "ckpt_path": "the checkpoint to go on from, or to evaluate",
}
_TRAINER = {
    "max_epochs": "how many epochs to train",
    "max_steps": "how many steps to train (default: -1, for no limit)",
    "accelerator": "auto, cpu, gpu or mps (default: auto)",
    "devices": "how many devices, or which (default: auto)",
    "strategy": "how devices share the work: auto, ddp or fsdp (default: auto)",
    "precision": "32-true, bf16-mixed, 16-mixed (default: 32-true)",
    "accumulate_grad_batches": "batches for each step of the optimizer (default: 1)",
    "gradient_clip_val": "the norm to which gradients are clipped",
    "limit_train_batches": "a number or a share of batches for an epoch; also limit_val_batches, limit_test_batches",
    "callbacks": "further callbacks",
    "logger": "a logger in place of TensorBoard's, or false",
    "deterministic": "use deterministic algorithms alone",
    "default_root_dir": "the folder of lightning_logs",
}
_CHECKPOINT = {
    "monitor": "the metric of best.ckpt (default: accuracy/val)",
    "mode": "max or min: which value is best (default: max)",
    "save_top_k": "how many checkpoints to keep (default: 1)",
}
_DATA = {
    "data": "MNISTSample, MNIST, FashionMNIST, CIFAR10, or own.Data, a LightningDataModule of your own",
    "data.batch_size": "the size of a batch",
}
_CLASSES = {  # what takes a class: the ones of spl by their short names
    "model.network": "MLP, LeNet300, ResNet, WideResNet, VGG16, or own.Net, an nn.Module of your own",
    "model.initializer": "Orthogonal, DeltaOrthogonal, HeNormal, LeCunNormal, GlorotNormal or Gaussian",
    "pruning.criterion": "scores the weights: ConnectionSensitivity, SNIP, IterativeSNIP, FORCE, GraSP, ProsPr, "
    "SynFlow, PX, NTKSAP, NPB, SAO, PHEW, Magnitude, TrainedMagnitude, Random, ShuffledInLayers or RedrawnWeights",
    "pruning.scope": "the sparsity distribution: Global, Uniform, ERK, SmartRatio or GivenDensities",
    "pruning.pattern": "the sparsity type: Unstructured, NM, TransposableNM, Blocks or Channels",
    "pruning.schedule": "the rounds of pruning: OneShot, Exponential or Linear",
    "moving.update": "what moves the masks: SET, RigL or GMP",
    "pruning.isometry": "the correction: ApproximateIsometry, OperatorIsometry, EdgeOfChaos, EOI, "
    "SparseOrthogonal, GradientDescentIsometry or null",
}
_SOURCES = {  # by group: the files and classes whose arguments are the flags
    "model": [("classifier.py", "SparseClassifier")],
    "pruning": [
        ("callbacks/prune_at_init.py", "PruneAtInit"),
        ("pruning/choices.py", "PruningChoices"),
        ("pruning/rule.py", "Rule"),
    ],
    "moving": [("callbacks/move_masks.py", "MoveMasks")],
    "spectrum": [("callbacks/jacobian_spectrum.py", "JacobianSpectrum")],
}
_TITLES = {
    "model": "the network and its training; or --model own.Module, a LightningModule",
    "pruning": "pruning at initialization",
    "moving": "masks that move in training",
    "spectrum": "singular values of the input-output Jacobian",
}


def page(command: str, purpose: str) -> str:
    """Return the help of a command that takes the flags of fit.

    Args:
        command: its name.
        purpose: what it does, in one sentence.

    Example:
        >>> from spl.cli.help import page
        >>> print(page("fit", "prune a network").partition("run:")[0].strip())
        usage: spl fit [--config NAME ...] [--GROUP.FLAG VALUE ...]
        <BLANKLINE>
        Prune a network.
    """
    groups = [
        ("run", {name: text for name, text in _RUN.items() if command == "fit" or name != "test_after_fit"}),
        (_TITLES["model"], dict(_entries("model"))),
        ("data", _DATA),
        (_TITLES["pruning"], dict(_entries("pruning"))),
        (_TITLES["moving"], dict(_entries("moving"))),
        (_TITLES["spectrum"], dict(_entries("spectrum"))),
        ("the Trainer of Lightning", {f"trainer.{name}": text for name, text in _TRAINER.items()}),
        ("checkpoints", {f"checkpoint.{name}": text for name, text in _CHECKPOINT.items()}),
    ]
    lines = [f"usage: spl {command} [--config NAME ...] [--GROUP.FLAG VALUE ...]", ""]
    lines += textwrap.wrap(f"{purpose[0].upper()}{purpose[1:]}.", _WIDTH)
    for title, flags in groups:
        lines += ["", f"{title}:"]
        for name, text in flags.items():
            lines += _entry(f"--{name}", text)
    classes = (
        f"`spl {command} --pruning.criterion.help SynFlow` explains a class and its arguments, which are flags too."
    )
    lines += ["", *textwrap.wrap(classes, _WIDTH, break_on_hyphens=False)]
    lines += [f"`spl {command} --help_all` lists all flags, with their types."]
    return "\n".join(lines)


def _entry(flag: str, text: str) -> list[str]:
    """Return the lines of a flag; a flag that is too long for its column has a line of its own."""
    lines = textwrap.wrap(text, _WIDTH - _COLUMN, break_on_hyphens=False)
    if len(flag) + 4 > _COLUMN:
        return [f"  {flag}", *(" " * _COLUMN + line for line in lines)]
    return [f"  {flag}".ljust(_COLUMN) + lines[0], *(" " * _COLUMN + line for line in lines[1:])]


def _entries(group: str) -> Iterator[tuple[str, str]]:
    """Return the flags of a group and their explanations: the first sentence in the source, and the default."""
    texts: dict[str, str] = {}
    defaults: dict[str, str] = {}
    for file, name in _SOURCES[group]:
        kind = _class(file, name)
        for argument, text in _documented(ast.get_docstring(kind) or "").items():
            texts.setdefault(argument, text)
        for argument, default in _default_values(kind).items():
            defaults.setdefault(argument, default)
    for argument, text in texts.items():
        if argument in defaults or argument == "network":
            name, default = f"{group}.{argument}", defaults.get(argument, "null")
            text = _CLASSES.get(name) or _first_clause(text)
            yield name, text if default in ("null", "false") else f"{text} (default: {default})"


def _class(file: str, name: str) -> ast.ClassDef:
    classes = (node for node in ast.parse(_read(file)).body if isinstance(node, ast.ClassDef))
    return next(node for node in classes if node.name == name)


@cache
def _read(file: str) -> str:
    return (_PACKAGE / file).read_text("utf-8")


def _documented(docstring: str) -> dict[str, str]:
    """Return the arguments in the section Args of a docstring, and what it says about them."""
    section = re.split(r"\n\w+:\n", docstring.partition("\nArgs:\n")[2] or "\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _default_values(kind: ast.ClassDef) -> dict[str, str]:
    """Return the defaults of the arguments of a class, as they are written in YAML."""
    values: dict[str, ast.expr] = {}
    for node in kind.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            values[node.target.id] = node.value
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            named = node.args.args[::-1]
            values |= {a.arg: v for a, v in zip(named, node.args.defaults[::-1], strict=False)}
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            values |= {a.arg: v for a, v in pairs if v is not None}
    return {name: _value(value) for name, value in values.items() if not isinstance(value, ast.Attribute)}


def _value(value: ast.expr) -> str:
    if isinstance(value, ast.Call):  # an object, which goes by the name of its class
        return ast.unparse(value.func)
    text = ast.unparse(value).strip("'")
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)


def _first_clause(text: str) -> str:
    """Return an explanation up to its first stop, or up to a colon if that is long."""
    sentence = re.split(r"[.;] ", text.rstrip("."))[0].replace("`", "")
    return sentence if len(sentence) < 110 else re.split(r": |, such as ", sentence)[0]
