"""Both jobs in a row: files and a question in, an answer with the place of its support out. Start in `pipeline`."""
