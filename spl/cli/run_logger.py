"""The logger of the `spl` command, whose runs each get a folder of their own."""

from pathlib import Path

from spl.lightning_api import TensorBoardLogger, rank_zero_only


class RunLogger(TensorBoardLogger):
    """A TensorBoardLogger that makes the folder of a version as it chooses the version.

    Lightning's logger makes the folder only with its first event, so that two runs that start at the same time share
    one.

    Example:
        >>> import tempfile
        >>> from spl.cli.run_logger import RunLogger
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [RunLogger(folder, name="digits").version for _ in range(2)]
        [0, 1]
    """

    def _get_next_version(self) -> int:
        version: int = super()._get_next_version()
        while getattr(rank_zero_only, "rank", 0) == 0:  # other processes write nothing
            try:
                Path(self.root_dir, f"version_{version}").mkdir(parents=True)
                break
            except FileExistsError:
                version += 1
        return version
