"""The ways to compress or to prune that tasks are run with: variants of our own, baselines and peers."""
