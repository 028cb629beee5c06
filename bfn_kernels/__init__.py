"""Fused, differentiable ops for Bayesian flow networks (Graves et al. 2023, arXiv 2308.07037).

There are four families of ops, one for each kind of data: `continuous`, `discretised`, `discrete`, and `binary` for two
classes by one logit. They share `schedules` (how accuracy grows with time), `noise` (seeds) and `backends` (which
implementation serves a call). `Indexed` is a time, an accuracy or a precision for each of many graphs; `Limits` are
those of a network's output. `nn` joins the ops to a network, and `samplers` draw with it, by the rules of `solvers`, or
in `adaptive` steps that fit their error.
"""

from bfn_kernels import (
    adaptive,
    backends,
    binary,
    common,
    continuous,
    discrete,
    discretised,
    nn,
    noise,
    samplers,
    schedules,
    solvers,
)
from bfn_kernels.arguments import Limits
from bfn_kernels.indexed import Indexed

__version__ = "0.1.0"
__all__ = [
    "Indexed",
    "Limits",
    "adaptive",
    "backends",
    "binary",
    "common",
    "continuous",
    "discrete",
    "discretised",
    "nn",
    "noise",
    "samplers",
    "schedules",
    "solvers",
]
