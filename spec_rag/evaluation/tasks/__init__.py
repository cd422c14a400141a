"""The tasks that methods are measured on: how their cases are made or read, and what counts as right."""
