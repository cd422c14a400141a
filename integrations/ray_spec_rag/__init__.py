"""spec-rag on a Ray cluster: `serve` has the server, `data` batch jobs."""
