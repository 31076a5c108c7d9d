"""A task defined in a user's Python file: the loader, the imports, the isolation of a run, and the task itself."""
