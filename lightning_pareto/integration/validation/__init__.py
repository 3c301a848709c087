"""Logits of the validation epochs, and what is made of them: metrics, logs and outcomes."""
