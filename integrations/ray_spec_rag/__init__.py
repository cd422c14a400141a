"""spec-rag on a Ray cluster: the server with draft and target as deployments of their own, and batch jobs.

`serve` and `data` are imported by their own names, since each needs its part of Ray.
"""
