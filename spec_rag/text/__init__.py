"""What a text is: documents, the units it may be cut into, its tokens, and how they are counted.

Nothing here knows models, attention or scores.
"""
