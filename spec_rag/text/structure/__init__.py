"""Structure of documents: the kind of each unit, and the units that it needs to be understood."""
