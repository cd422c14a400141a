"""Learning which heads of a draft to trust, on questions that are generated from a seed."""
