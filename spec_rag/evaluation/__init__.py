"""Tasks, methods and metrics to measure what compression and pruning cost and gain."""
