"""Results in a terminal and in a notebook."""
