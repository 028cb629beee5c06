"""CUDA's kernels, run on the CPU, take part in the tests as one more backend."""

import cuda_on_host
import torch

from bfn_kernels import backends, continuous, discrete, discretised

if cuda_on_host.missing() is None:
    torch.ops.load_library(cuda_on_host.operators())
    backends.BACKENDS["cuda_on_host"] = backends.Backend("cuda_on_host", "cpu", cuda_on_host.NAMESPACE)
    for family in (continuous, discrete, discretised):
        family.autograd._register(cuda_on_host.NAMESPACE)
