"""Code that the public functions of all families share: checks, keywords, outputs, row scalars and reductions."""
