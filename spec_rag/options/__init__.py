"""Every option of the package, defined once."""
