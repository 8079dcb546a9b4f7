"""The command line: `spl fit` and its relatives, `spl summary`, `spl export`, and messages for errors."""
