"""Fused, differentiable ops for Bayesian flow networks (Graves et al. 2023, arXiv 2308.07037).

There are six families of ops, one for each kind of data: `continuous`, `discretised`, `discrete`, `binary` for two
classes by one logit, `circular` for angles, and `vocabulary` for classes that are too many to store numbers for each of
them. They share `schedules` (how accuracy grows with time), `noise` (seeds) and `backends` (which implementation serves
a call). `Limits` are the limits of a network's output. `nn` joins the ops to a network, and `samplers` draw with it, by
the rules of `solvers`, or in `adaptive` steps that fit their error.

All families share this (docs/contracts.md has more, and explains the keywords that several families have):

Rows: times, accuracies and precisions are scalars, `[B]` or any leading part of the shape of the data or classes.
Types: numbers are float32, bfloat16, float16 or float64; arithmetic in float32 (float64 for float64), one rounding at
the end.
Random numbers: `seed=` an int or int64 tensor, or a `generator=` that one is drawn from; else torch's default one.
Numbers in parentheses: equations of Graves et al. 2023.
Errors: a wrong shape, device, range or keyword is a ValueError, a wrong type a TypeError, before anything is computed;
a class out of range is an IndexError on the CPU, and NaN for its variable elsewhere.
"""

from bfn_kernels import (
    adaptive,
    backends,
    binary,
    circular,
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
from bfn_kernels.call.keywords import Limits

__version__ = "0.1.0"
__all__ = [
    "Limits",
    "adaptive",
    "backends",
    "binary",
    "circular",
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
