"""Validation epochs: one collector of logits that feeds metrics, logs, corrections and trials."""
