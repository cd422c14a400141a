"""Loading of models: location of checkpoints, options, shared instances, and configs."""
