"""Fused, differentiable ops for Bayesian flow networks (Graves et al. 2023, arXiv 2308.07037).

There are four families of ops, one for each kind of data: `continuous`, `discretised`, `discrete`, and `binary` for two
classes by one logit. They share `schedules` (how accuracy grows with time), `noise` (seeds) and `backends` (which
implementation serves a call).
"""

from bfn_kernels import backends, binary, common, continuous, discrete, discretised, noise, schedules

__version__ = "0.1.0"
__all__ = ["backends", "binary", "common", "continuous", "discrete", "discretised", "noise", "schedules"]
