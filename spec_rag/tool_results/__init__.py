"""Tool results of agents: recognised by kind, shortened without breaking their format."""
