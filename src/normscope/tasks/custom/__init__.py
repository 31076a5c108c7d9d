"""Tasks defined by a user's own Python file: the trial it returns, how it is loaded and kept apart."""
