"""The user's data: labels and loaders."""
