"""The paper, reproduced: its figures and tables from runs of `spl fit`, by one command each."""
