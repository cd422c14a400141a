"""Text: documents, units, tokens, prompts and chat formats."""
