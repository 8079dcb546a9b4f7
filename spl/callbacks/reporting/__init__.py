"""Reports of a run: the record of its pruning, tables, figures and TensorBoard."""
