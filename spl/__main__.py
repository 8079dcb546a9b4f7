"""The `spl` command, also run by `python -m spl`: it calls the subcommand, and reports errors in one line."""

import sys
from typing import TYPE_CHECKING, NoReturn

from spl.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_COMMANDS = {
    "fit": "prune a network at initialization, correct it, train it and test it",
    "diagnose": "say whether the pruned network will train, why, and what to change, without training it",
    "validate": "evaluate a checkpoint on the validation set",
    "test": "evaluate a checkpoint on the test set",
    "predict": "write class probabilities of a checkpoint to predictions.csv",
    "summary": "print what a pruned network costs",
    "export": "write a pruned network to a file: a smaller or faster program, or the kept weights",
    "compare": "train several pruning methods on one network, and write tables and figures",
    "reproduce": "make the figures and tables of the paper",
    "configs": "list the configurations that --config takes by name",
}
_FITS = ("fit", "diagnose", "validate", "test", "predict")  # the commands that take the flags of fit
_HELP = {"-h", "--help"}


def main(args: list[str] | None = None) -> None:
    """Run the command line `args`, by default that of the process; exit with status 2 on input that cannot be used.

    After Ctrl-C the status is 130, and after SIGTERM 143.
    """
    try:
        from spl.cli.output import outlive_readers

        outlive_readers()
        _run(sys.argv[1:] if args is None else args)
    except InputError as error:  # needs no advice, which imports Lightning
        _end_with(str(error))
    except SystemExit as ended:
        if ended.code == 1 and isinstance(ended.__context__, KeyboardInterrupt):  # how a Trainer ends on Ctrl-C
            sys.exit(130)
        raise
    except KeyboardInterrupt:  # before a command handles it, for instance while Python imports
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from spl.cli.advice import advice

        message = advice(error)
        if message is None:
            raise
        _end_with(message)


def _end_with(message: str) -> NoReturn:
    """Print what is wrong in one line, and exit with status 2."""
    from spl.cli.printable import printable

    print(f"spl: error: {printable(message)}", file=sys.stderr)
    sys.exit(2)


def _run(args: list[str]) -> None:
    """Run a command after importing only what it needs."""
    if args in ([], ["-h"], ["--help"]):
        print(_overview())
    elif args == ["--version"]:
        import spl

        print(f"spl {spl.__version__}")
    elif args[0] in _FITS and _HELP.intersection(args):
        from spl.cli.help import page

        print(page(args[0], _COMMANDS[args[0]]))
        sys.exit(0)
    elif args[0] == "configs":
        from spl.cli.configs import overview

        _check_alone(args)
        print(overview())
    elif args[0] == "--print_completion":
        from spl.cli.completion import print_script

        print_script(args[1:], _COMMANDS, {"reproduce": _reproduce_parser})
    elif args[0] not in _COMMANDS and not args[0].startswith("-"):
        _refuse_command(args[0])
    else:
        from spl.lightning_api import settle

        settle()
        _call(args)


def _check_alone(args: list[str]) -> None:
    """Refuse words after a command that takes none; print what it does if they ask for help."""
    if _HELP.intersection(args):
        print(f"usage: spl {args[0]}\n\n{_COMMANDS[args[0]].capitalize()}.")
        sys.exit(0)
    if args[1:]:
        raise InputError(f"`spl {args[0]}` takes no arguments, got {args[1]}.")


def _refuse_command(word: str) -> None:
    """Say that there is no such command, and which one was meant, before anything is imported."""
    from spl.cli.suggestions import did_you_mean

    hint = did_you_mean(word, _COMMANDS) or "`spl --help` lists all."
    raise InputError(f"There is no command {word}: {hint}")


def _reproduce_parser() -> "ArgumentParser":
    from spl.reproduction.command import reproduce_parser

    return reproduce_parser()


def _call(args: list[str]) -> None:
    """Call the subcommand that a command line names."""
    from spl.cli.own_classes import start_in_current_folder

    start_in_current_folder()
    if args[0] == "reproduce":
        from spl.reproduction.command import reproduce_command

        reproduce_command(args[1:])
    elif args[0] == "compare":
        from spl.compare.command import compare_command

        compare_command(args[1:])
    elif args[0] in ("export", "summary"):
        from spl.cli import export

        (export.export_command if args[0] == "export" else export.summary_command)(args[1:])
    else:
        from spl.cli import fit

        fit.run(fit.SplCLI, args)


def _overview() -> str:
    """Return the text that `spl --help` prints."""
    commands = "\n".join(f"  {name:<10} {what}" for name, what in _COMMANDS.items())
    return (
        "usage: spl COMMAND [--help] ...\n\n"
        "Prune neural networks at initialization, measure how signals propagate through them,\n"
        f"repair signal propagation, and train the sparse networks.\n\n{commands}\n\n"
        "`spl COMMAND --help` explains the flags of a command; `spl --version` prints the version.\n"
        "`spl --print_completion bash` prints a script that completes commands and flags."
    )


if __name__ == "__main__":
    main()
