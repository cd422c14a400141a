"""Question answering on files: chunks, retrieval, compression, answer and support. Entry point: `answer`."""
