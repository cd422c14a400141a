"""The second job: a prompt in, an answer from a pruned cache out. Start reading in `pipeline`."""
