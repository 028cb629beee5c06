"""Imports torch without its warning that NumPy is missing. This package does not need NumPy."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    import torch

    # torch warns once in a process: in some versions at its import, in others when it first reads a number.
    torch.scalar_tensor(0.0, device="cpu")
