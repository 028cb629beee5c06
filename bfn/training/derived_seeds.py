"""Seeds made from seeds."""

from bfn_kernels.nn import part

# Each part of a training run has a seed of its own: train.seed folded with one of these numbers.
WEIGHTS, ORDER, STEPS, VALIDATION, DRAWS = range(5)


def derive(seed: int, *path: int) -> int:
    """The seed of a part, from the seed of the whole. derive(seed, part, step) is the seed of one step of a part."""
    for index in path:
        seed = part(seed, index)
    return seed
