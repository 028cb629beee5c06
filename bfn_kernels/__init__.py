"""Fused, differentiable ops for Bayesian flow networks (Graves et al. 2023, arXiv 2308.07037).

Three families, one per kind of data: `continuous`, `discretised` and `discrete`. Shared beside them: `schedules`
(what a time means), `noise` (seeds) and `backends` (which implementation serves a call).
"""

from bfn_kernels import backends, common, continuous, discrete, discretised, noise, schedules

__version__ = "0.1.0"
__all__ = ["backends", "common", "continuous", "discrete", "discretised", "noise", "schedules"]
