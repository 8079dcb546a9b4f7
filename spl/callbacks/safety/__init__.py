"""Callbacks for safety: complete checkpoints, and fits that stop between two steps."""
