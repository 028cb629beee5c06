"""Fused, differentiable ops for Bayesian flow networks (Graves et al. 2023, arXiv 2308.07037). docs/tutorial.md
explains such a network in 40 lines of code.

There are six families of ops, one for each kind of data: `continuous`, `discretised`, `discrete`, `binary` (two
classes, one logit), `circular` (angles), and `vocabulary` (so many classes that no op stores a number for each class of
each token). They share `schedules` (how accuracy grows with time), `noise` (seeds) and `backends` (which implementation
serves a call). `Limits` bound a network's output. `nn` combines the ops with a network. `samplers` draw data from it,
by ancestral sampling or by the rules of `solvers`. `adaptive` chooses the lengths of their steps. `coding` makes
intervals for an entropy coder.

All families have in common (docs/arguments.md has more, and explains the keywords that several families share):

Times, accuracies and precisions: a number, or a tensor `[B]` or of any leading part of the data's shape `[B, ...]`.
Types: numbers are float32, bfloat16, float16 or float64. Arithmetic is in float32, or in float64 if an argument is
float64. (Times, accuracies, precisions, noise, known values and soft data do not count.) Results are rounded once,
at the end.
Random numbers: a seed determines them. Pass it as `seed=`, an int or an int64 tensor. Or pass a `torch.Generator` as
`generator=`, which draws the seed. Without both, torch's default generator draws it.
Numbers in parentheses: equations of Graves et al. 2023.
Errors: a wrong shape, device, range or keyword is a ValueError and a wrong type a TypeError, before anything is
computed. A class out of range is an IndexError on the CPU. Elsewhere it gives NaN for its variable.
"""

from bfn_kernels import without_numpy  # noqa: F401  (before all modules that import torch)

# isort: split

from bfn_kernels import (
    adaptive,
    backends,
    binary,
    circular,
    coding,
    common,
    continuous,
    discrete,
    discretised,
    nn,
    noise,
    samplers,
    schedules,
    solvers,
    vocabulary,
)
from bfn_kernels.arguments.keywords import Limits

__version__ = "0.1.0"
__all__ = [
    "Limits",
    "adaptive",
    "backends",
    "binary",
    "circular",
    "coding",
    "common",
    "continuous",
    "discrete",
    "discretised",
    "nn",
    "noise",
    "samplers",
    "schedules",
    "solvers",
    "vocabulary",
]
