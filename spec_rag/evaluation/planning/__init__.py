"""What a pair of models will cost on a device, from their configs alone."""
