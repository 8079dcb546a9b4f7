"""What is wrong with a command line, in one sentence, from what jsonargparse says about it."""

import re
import sys
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser

from spl.cli.jsonargparse_private import flags, known_classes, listed_classes, subparsers, type_hint
from spl.cli.suggestions import did_you_mean


def explained(parser: ArgumentParser, message: str) -> str:
    """Return what is wrong in one sentence, with what was meant if something is like it.

    Args:
        parser: the parser that found it.
        message: what the parser says.

    Example:
        >>> from jsonargparse import ArgumentParser
        >>> from spl.cli.mistakes import explained
        >>> parser = ArgumentParser(prog="spl [options] fit")
        >>> _ = parser.add_argument("--pruning.sparsity", type=float)
        >>> explained(parser, "unrecognized arguments: --pruning.sparsty 0.9")
        '--pruning.sparsty is not a flag of spl fit: did you mean --pruning.sparsity?'
        >>> explained(parser, 'Parser key "pruning.sparsity":\\n  Expected a <class \\'float\\'>. Got value: much')
        "--pruning.sparsity: expected float, got 'much'."
    """
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown_word(parser, found[1])
    if found := re.search(r"(?:Subcommand '(\w+)' does not accept o|^O)ption '([^']+)'", message):
        return _unknown_key(_subparser(parser, found[1]), found[2])
    if found := re.match(r"the following arguments are required: (.*)", message):
        return _missing(parser, found[1].split(", "))
    if found := re.match(r'Parser key "([^"]+)":?\s*(.*)', message, re.DOTALL):
        return _of_key(parser, found[1], found[2])
    return _one_line(message)


def _command(parser: ArgumentParser) -> str:
    return str(parser.prog).replace(" [options]", "")


def _subparser(parser: ArgumentParser, subcommand: str | None) -> ArgumentParser:
    """Return the parser of a subcommand, or the parser itself."""
    return subparsers(parser).get(subcommand or "", parser)


def _near_flags(parser: ArgumentParser, word: str) -> str:
    """Return a question about the flag that was meant: one that is spelled alike, or has the same last part."""
    known, last = flags(parser), word.lstrip("-").rpartition(".")[2]
    same = [flag for flag in known if flag.lstrip("-").rpartition(".")[2] == last]
    return did_you_mean(word, known) or (f"did you mean {' or '.join(same)}?" if 0 < len(same) <= 3 else "")


def _all_flags(parser: ArgumentParser) -> str:
    return f"`{_command(parser)} {'--help_all' if '--help_all' in flags(parser) else '--help'}` lists all."


def _unknown_word(parser: ArgumentParser, word: str) -> str:
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return f"{word} belongs to no flag of {_command(parser)}: flags begin with --. {_all_flags(parser)}"
    hint = _near_flags(parser, name) or _all_flags(parser)
    return f"{name} is not a flag of {_command(parser)}: {hint}"


def _unknown_key(parser: ArgumentParser, key: str) -> str:
    hint = _near_flags(parser, f"--{key}").replace("--", "") or _all_flags(parser)
    return f"{key} in the configuration is not an option of {_command(parser)}: {hint}"


def _missing(parser: ArgumentParser, names: list[str]) -> str:
    missing = []
    for name in names:
        command, _, rest = name.partition(".")
        missing.append(f"--{rest if command in subparsers(parser) else name}")
    hint = ", or a configuration that has them, such as --config quickstart" if subparsers(parser) else ""
    return f"Something is missing: give {' and '.join(missing)}{hint}."


def _of_key(parser: ArgumentParser, key: str, problem: str) -> str:
    """Return what is wrong with the value of an argument."""
    first, _, rest = key.partition(".")
    if _subparser(parser, first) is not parser:
        parser, key = _subparser(parser, first), rest
    if key == "config":
        return explained(parser, problem) if "option '" in problem else f"--config: {_one_line(problem)}"
    flag = f"--{key}"
    if found := re.match(r"Unable to load config '(.*?)'\s*- (.*)", problem, re.DOTALL):
        if "Unable to load config" not in found[2]:
            return explained(parser, found[2])
        return f"{flag}: {found[1]} is neither a file nor the path of a class, such as package.Class."
    if found := re.search(r"Import path (\S*) ?does not correspond to a subclass of (\w+)", problem):
        value = re.search(r"Given value: ([\w.]+)", problem)
        return f"{flag}: {found[1] or (value[1] if value else 'this')} is not a subclass of {found[2]}."
    if found := re.search(r"Problem with given class_path '([^']+)':\s*(?:Parser key.*?)?Option '([^']+)'", problem):
        return _unknown_argument(flag, found[1], found[2])
    if found := re.search(r"class_path '([^']+)':\s*the following arguments are required: (\w+(?:, \w+)*)", problem):
        wanted = [f"{flag}.{name}" for name in found[2].split(", ")]
        return f"{flag}: {found[1].rpartition('.')[2]} needs more: give {' and '.join(wanted)}."
    if re.search(r"Value type.*NestedArg|Given value: NestedArg", problem) and "is abstract" in problem:
        name = re.search(r"NestedArg\(key='([^']*)'", problem)
        return f"{flag}.{name[1] if name else ''} has no class to belong to: give {flag} first."
    if found := re.search(r"subclasses with name (\w+)\. Give the full class path .*?: ([\w., ]+)\.", problem):
        paths = " or ".join(found[2].split(", "))
        return f"{flag}: several packages have a class {found[1]}: give its path, {paths}."
    if found := re.search(r"Expected a dot import path string: (\S+)", problem):
        return _unknown_class(parser, key, found[1])
    if found := re.search(r"class_path '([\w.]+)':\s*(No module named|module '[^']+' has no attribute)", problem):
        return _unknown_class(parser, key, found[1])
    if found := re.search(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", problem):
        choices = [choice.strip(" '\"") for choice in found[1].split(",")]
        hint = did_you_mean(found[2], choices)
        return f"{flag}: expected one of {', '.join(choices)}, got {found[2]!r}{': ' + hint if hint else '.'}"
    if found := re.match(r"Expected an? <class '(\w+)'>\. Got value: (.*)", problem):
        return f"{flag}: expected {found[1]}, got {found[2]!r}."
    kinds = re.findall(r"^\s*- Expected an? <class '(\w+)'>$", problem, re.MULTILINE)
    if kinds and len(kinds) == len(re.findall(r"^\s*- ", problem, re.MULTILINE)):
        value = re.search(r"Given value: (.*)", problem)
        words = ["null" if kind == "NoneType" else kind for kind in kinds]
        return f"{flag}: expected {' or '.join(words)}, got {value[1] if value else 'another value'!r}."
    return f"{flag}: {_one_line(problem)}"


def _unknown_class(parser: ArgumentParser, key: str, path: str) -> str:
    """Return that there is no such class for an argument, and which one was meant."""
    module, _, name = path.rpartition(".")
    hint = type_hint(parser, key)
    if module in sys.modules:
        suggestion = did_you_mean(name, [choice for choice in vars(sys.modules[module]) if choice[:1] != "_"])
        return f"--{key}: there is no {name} in {module}{': ' + suggestion if suggestion else '.'}"
    if module:
        return f"--{key}: there is no module {module} with a class {name}: correct the path, or install its package."
    ours = _names(listed_classes(hint))
    choices = [*ours, *(name for name in _names(known_classes(hint)) if name not in ours)]
    if suggestion := did_you_mean(name, ours) or did_you_mean(name, choices):
        return f"--{key}: there is no class {name}: {suggestion}"
    listed = f"take one of {', '.join(ours)}, or " if ours and not key.startswith("trainer.") else ""
    return f"--{key}: there is no class {name}: {listed}give an import path such as package.{name}."


def _unknown_argument(flag: str, path: str, argument: str) -> str:
    """Return that a class has no such argument, and which one was meant."""
    module, _, name = path.rpartition(".")
    names = _arguments(getattr(sys.modules.get(module), name, None))
    hint = did_you_mean(argument, names) or (f"it has {', '.join(names)}." if names else "it has none.")
    return f"{flag}: {name} has no argument {argument}: {hint}"


def _arguments(kind: Any) -> list[str]:
    """Return the names of the arguments of a class as the parser knows them."""
    try:
        return ArgumentParser().add_class_arguments(kind) if isinstance(kind, type) else []
    except ValueError:
        return []


def _names(paths: Iterable[str]) -> list[str]:
    return [path.rpartition(".")[2] for path in paths]


def _one_line(text: str) -> str:
    return " ".join(text.split())
