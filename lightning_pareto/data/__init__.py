"""The user's data: labels, loaders, and synthetic data whose status is known."""
