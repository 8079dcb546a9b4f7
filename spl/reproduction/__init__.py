"""The reproduction of the paper: its figures and tables from runs of `spl fit`, by one command each."""
