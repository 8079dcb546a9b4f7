"""The command line: fit and what goes with it, summary and export, and what errors say."""
