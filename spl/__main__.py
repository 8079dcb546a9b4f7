"""The `spl` command, also as `python -m spl`: choose what to run, and say in one line what went wrong."""

import sys

_COMMANDS = {
    "fit": "prune a network at initialization, correct it, train it and test it",
    "diagnose": "say whether the pruned network will train, why, and what to change, without training it",
    "validate": "evaluate a checkpoint on the validation set",
    "test": "evaluate a checkpoint on the test set",
    "predict": "write class probabilities of a checkpoint to predictions.csv",
    "summary": "tell what a pruned network costs",
    "export": "take a pruned network away: smaller, faster, or as a file of what is kept",
    "reproduce": "make the figures and tables of the paper",
}


def main(args: list[str] | None = None) -> None:
    """Run the command line `args`, those of the process without any; exit with 2 on input that cannot be used."""
    try:
        _run(sys.argv[1:] if args is None else args)
    except Exception as error:
        from spl.cli.advice import advice

        message = advice(error)
        if message is None:
            raise
        print(f"spl: error: {message}", file=sys.stderr)
        sys.exit(2)


def _run(args: list[str]) -> None:
    """Import what a command needs, and no more, and run it."""
    if args in ([], ["-h"], ["--help"]):
        print(_overview())
    elif args == ["--version"]:
        from importlib.metadata import version

        print(f"spl {version('spl')}")
    elif args[0] == "reproduce":
        from spl.reproduction.command import reproduce_command

        reproduce_command(args[1:])
    elif args[0] in ("export", "summary"):
        from spl.cli import export

        (export.export_command if args[0] == "export" else export.summary_command)(args[1:])
    else:
        from spl.cli import fit

        fit.run(fit.SplCLI, args)


def _overview() -> str:
    """Return what `spl --help` prints."""
    commands = "\n".join(f"  {name:<10} {what}" for name, what in _COMMANDS.items())
    return (
        "usage: spl COMMAND [--help] ...\n\n"
        "Prune neural networks at initialization, look at how signals propagate, repair it,\n"
        f"and train what is left.\n\n{commands}\n\n"
        "`spl COMMAND --help` explains the flags of a command; `spl --version` tells the version."
    )


if __name__ == "__main__":
    main()
