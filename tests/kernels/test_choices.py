"""What serves a call: the warning of the slow backend, and who computes on tiles."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from bfn_kernels import backends
from bfn_kernels.operators import NATIVE, TRITON
from bfn_kernels.vocabulary.tile_functions import kernel_of, sums_tile, tile_function


def test_the_slow_backend_is_told_of_once(monkeypatch):
    """If nobody asked for it: a device without kernels."""
    monkeypatch.setattr(backends, "_warned", False)
    mps = torch.device("mps")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends.library("reference", mps)
        if backends.CPU_BUILD is not None:
            backends.library(None, torch.device("cpu"))
        backends.library(None, torch.device("meta"))  # where nothing is computed
    with pytest.warns(UserWarning, match=r"no compiled backend serves mps tensors.*there is none for this device"):
        assert backends.library(None, mps) is backends.REFERENCE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backends.library(None, mps)


@pytest.mark.parametrize(("kind", "device", "own"), [
    (NATIVE, "cpu", True), (TRITON, "cpu", True), (TRITON, "meta", True), (NATIVE, "meta", False)
])  # fmt: skip
def test_tiles_on_a_gpu_are_tritons(kind, device, own):
    """The native library computes them on a CPU alone, and plain PyTorch does what a library lacks."""
    kernel = lambda: None  # noqa: E731
    library = SimpleNamespace(kind=kind, vocabulary=SimpleNamespace(sums_tile=kernel))
    like = torch.zeros(1, device=device)
    assert kernel_of(library, "sums_tile", like) is (kernel if own else None)
    assert tile_function(library, "sums_tile", like) is (kernel if own else sums_tile)
    assert kernel_of(library, "another", like) is None
