"""The first job: documents and a question in, less text out. Start reading in `pipeline`."""
