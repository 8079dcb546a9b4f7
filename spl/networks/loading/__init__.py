"""Networks and hyperparameters from checkpoints, rebuilt without calling what a file names unless it is allowed."""
