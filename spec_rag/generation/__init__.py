"""Generation: from a prompt to an answer. Start reading in `generate.py`."""
