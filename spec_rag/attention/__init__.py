"""What both jobs observe: attention seen while a model runs, reduced to importance, and what is chosen by it.

Nothing here knows compression or generation.
"""
