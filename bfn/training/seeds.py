"""Seeds made from seeds."""

from bfn_kernels.nn import part

# Each part of a training run has a seed of its own: train.seed folded with one of these numbers.
WEIGHTS, ORDER, STEPS, VALIDATION, DRAWS = range(5)


def derive(seed: int, *path: int) -> int:
    """The seed of one part of what `seed` rules: derive(seed, part, step) is that of a step of a part."""
    for index in path:
        seed = part(seed, index)
    return seed
