"""Where results go: folders, memory, loggers."""
