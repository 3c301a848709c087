"""The analysis after a fit: checks, checkpoints, influence and verdict."""
