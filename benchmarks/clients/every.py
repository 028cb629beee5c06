"""All clients."""

import torch

from benchmarks.clients import crystals, molecules, reals, tokens
from benchmarks.clients.client import Client


def clients(divisor: int, dtype: torch.dtype) -> list[Client]:
    """All clients, in the order of `places.PLACES`. `divisor` divides the number of rows of each."""
    return [
        tokens.smiles(64 // divisor, dtype),
        tokens.guided_step(64 // divisor, dtype),
        molecules.types_by_draws(400 // divisor, dtype, 13, 1.5),
        molecules.types_by_draws(400 // divisor, dtype, 2, 3.0),
        molecules.charges(1152 // divisor, dtype),
        crystals.fractions(256 // divisor, dtype, max(20, crystals.MESSAGES // divisor)),
        tokens.profiles(max(1, 8 // divisor), dtype),
        tokens.antibodies(max(1, 8 // divisor), dtype),
        reals.policy(256 // divisor, dtype),
        reals.images(max(1, 16 // divisor), dtype),
        reals.inference_step(max(1, 16 // divisor), dtype),
    ]
