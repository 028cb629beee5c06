"""What the public functions of all families share: checks of arguments, keywords, outputs, row scalars, reductions."""
