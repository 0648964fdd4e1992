"""guest's RPCs: one class for each service of the protos."""
