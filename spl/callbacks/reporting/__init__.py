"""Reports: the record of a pruning, tables, figures and TensorBoard."""
