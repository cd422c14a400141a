"""The benchmark: what is measured in which order, and the page that tells of it."""
