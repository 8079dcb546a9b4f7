"""The configurations that come with spl, which `--config` takes by name."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from spl.cli.suggestions import did_you_mean
from spl.errors import InputError

FLAGS = ("--config", "-c")  # the flag that takes a configuration
_PARTS = {  # by folder, the flag that takes a configuration of one part
    "data/": "--data",
    "isometry/": "--pruning.isometry",
    "network/": "--model.network",
    "schedule/": "--model.lr_scheduler",
    "trainer/": "--trainer",
}


def folder() -> Path:
    """Return the folder of the configurations: in the package, or beside it in a copy of the repository.

    Example:
        >>> from spl.cli.configs import folder
        >>> (folder() / "quickstart.yaml").is_file()
        True
    """
    package = Path(__file__).parents[1]
    return next((path for path in (package / "configs", package.parent / "configs") if path.is_dir()), package)


def names() -> list[str]:
    """Return the names of the configurations, such as cifar10/vgg16_cs.

    Example:
        >>> from spl.cli.configs import names
        >>> "quickstart" in names(), "options/bf16" in names()
        (True, True)
    """
    found = (path.relative_to(folder()).with_suffix("").as_posix() for path in folder().rglob("*.yaml"))
    return sorted(found, key=lambda name: (name.startswith(tuple(_PARTS)), "/" in name, name))


def overview() -> str:
    """Return one line for each configuration: its name and its first comment.

    Example:
        >>> from spl.cli.configs import overview
        >>> overview().splitlines()[2].split()[0]
        'quickstart'
    """
    wholes = [name for name in names() if not name.startswith(tuple(_PARTS))]
    parts = [name for name in names() if name not in wholes]
    return "\n".join(
        [
            "spl fit --config NAME; several may follow each other, and the last one wins:",
            "",
            *_lines(wholes),
            "",
            f"Parts of them, each the value of the flag {', '.join(dict.fromkeys(_PARTS.values()))}:",
            "",
            *_lines(parts),
            "",
            f"The files are in {folder()}.",
        ]
    )


def _lines(chosen: Sequence[str]) -> list[str]:
    """Return the lines of configurations, each cut to the width of the terminal, if there is one."""
    width = max(map(len, chosen), default=0)
    lines = [f"  {name:<{width}}  {_comment(folder() / f'{name}.yaml')}".rstrip() for name in chosen]
    most = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else None
    return [line if most is None or len(line) <= most else f"{line[: most - 1]}…" for line in lines]


def _comment(file: Path) -> str:
    """Return the first line of a configuration, without the sign of a comment."""
    return file.read_text("utf-8").partition("\n")[0].removeprefix("#").strip()


def resolve_configs(args: Sequence[str]) -> list[str]:
    """Return the words of a command line with the file of a configuration in place of its name.

    A file in the current folder counts before a configuration of spl.

    Raises:
        InputError: there is neither a file nor a configuration of a name.

    Example:
        >>> from spl.cli.configs import resolve_configs
        >>> resolve_configs(["fit", "--config", "quickstart"])[-1].endswith("configs/quickstart.yaml")
        True
        >>> resolve_configs(["fit", "--config=quickstrat"])
        Traceback (most recent call last):
        spl.errors.InputError: There is no file quickstrat, and no configuration of this name: did you mean quickstart?
    """
    words = list(args)
    for i, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--config" and equals:
            words[i] = flag + equals + _file(value)
        elif i and words[i - 1] in FLAGS:
            words[i] = _file(word)
        elif word.startswith(tuple(_PARTS)) and word in names() and not os.path.lexists(word):
            words[i] = str(folder() / f"{word}.yaml")
    return words


def _file(value: str) -> str:
    """Return the file that `--config value` means, or `value` itself if it is YAML."""
    if not value.isprintable() or len(value) > 1000 or any(c in value for c in "{}:\\") or Path(value).is_file():
        return value  # YAML, or what the parser refuses
    if value in names():
        return str(folder() / f"{value}.yaml")
    if os.path.lexists(value) or value in ("", "-", "null"):
        return value
    near = [*names(), *(str(path) for path in Path(value).parent.glob("*.y*ml"))]
    near += [str(Path("configs", f"{name}.yaml")) for name in names()] if Path("configs").is_dir() else []
    hint = did_you_mean(value, near) or "`spl configs` lists those of spl."
    raise InputError(f"There is no file {value}, and no configuration of this name: {hint}")
