"""Fused, differentiable ops for Bayesian flow networks (Graves et al. 2023, arXiv 2308.07037).

There are three families of ops, one for each kind of data: `continuous`, `discretised` and `discrete`. They share
`schedules` (how accuracy grows with time), `noise` (seeds), `backends` (which implementation serves a call) and
`Limits` (of what a network puts out).
"""

from bfn_kernels import backends, common, continuous, discrete, discretised, noise, schedules
from bfn_kernels.arguments import Limits

__version__ = "0.1.0"
__all__ = ["Limits", "backends", "common", "continuous", "discrete", "discretised", "noise", "schedules"]
