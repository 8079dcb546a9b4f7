"""Scoring within a Trainer: its batches, its loss and its processes."""
