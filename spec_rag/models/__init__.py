"""What is loaded: checkpoints found, loaded once and shared, and the lock that requests on them queue on.

Nothing here knows prompts, documents or attention.
"""
