"""The comparison of pruning methods on one network: methods × sparsities × seeds from one configuration."""
