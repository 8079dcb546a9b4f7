"""Safety: whole checkpoints, and fits that stop or end between two steps."""
