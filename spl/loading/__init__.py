"""What a checkpoint may name: networks and hyperparameters, made again without calling what a file says."""
