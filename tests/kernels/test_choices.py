"""Tests of the choice of a backend, of the warning about the slow backend, and of the choice of functions for tiles."""

import csv
import dataclasses
import re
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bfn_kernels import backends
from bfn_kernels.declarations import NATIVE, TRITON
from bfn_kernels.vocabulary.tile_functions import kernel_of, sums_tile, tile_function
from tests.kernels.support import FIRST

ROOT = Path(__file__).parents[2]
PREDICTED = ROOT / "benchmarks/results/predicted/executed.csv"
CIRCULAR = {f"circular.{op}" for op in ("flow_sample", "sender_sample", "bayesian_update", "update_sample", "renoise")}


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


def serve_gpus(monkeypatch, *missing):
    """Makes backends for GPUs of Triton and of the CUDA kernels. The `missing` ones are not available."""
    for name in ("triton", "cuda"):
        has = {"device": "cuda", "missing": "it is missing" if name in missing else None}
        monkeypatch.setitem(backends.BACKENDS, name, dataclasses.replace(backends.BACKENDS[name], **has))


@pytest.mark.parametrize(
    ("missing", "usual", "circular"),
    [
        ((), "triton", "cuda"),
        (("cuda",), "triton", "triton"),
        (("triton",), "cuda", "cuda"),
        (("triton", "cuda"), "reference", "reference"),
    ],
)
def test_the_best_backend_of_a_gpu(monkeypatch, missing, usual, circular):
    gpu = torch.device("cuda")
    serve_gpus(monkeypatch, *missing)
    assert (backends.choose(None, gpu).name, backends.choose(None, gpu, first="cuda").name) == (usual, circular)
    assert backends.choose("reference", gpu, first="cuda").name == "reference"
    assert backends.choose(None, torch.device("meta"), first="cuda").name == "reference"


def test_cuda_kernels_that_do_not_load_serve_nobody_who_did_not_ask(monkeypatch):
    """They may have been built from other sources. Triton then serves the ops for which they would come first."""

    def refuse():
        raise RuntimeError("built from other sources")

    gpu, tritons = torch.device("cuda"), object()
    serve_gpus(monkeypatch)
    monkeypatch.setitem(backends.LIBRARIES, TRITON, tritons)
    monkeypatch.setattr(backends, "_load_cuda_once", refuse)
    assert backends.library(None, gpu, first="cuda") is tritons
    with pytest.raises(RuntimeError, match="built from other sources"):
        backends.library("cuda", gpu, first="cuda")


def test_cuda_comes_first_where_it_is_predicted_to_be_faster(monkeypatch):
    """An op prefers CUDA if CUDA is predicted to be at least 1.2 times as fast in every call."""
    seconds = defaultdict(dict)
    with open(PREDICTED, newline="") as file:
        for row in csv.DictReader(file):
            seconds[row["call"]][row["backend"]] = float(row["picoseconds"])
    ratios = defaultdict(list)
    for call, of in seconds.items():
        if len(of) == 2:
            ratios[call.partition(",")[0]].append(of["triton"] / of["cuda"])
    faster = {op for op, found in ratios.items() if min(found) > 1.2}
    assert faster == {"circular flow", "circular sender", "circular update", "circular new update"}

    page = " ".join((ROOT / "docs/arguments.md").read_text().split())
    said = re.search(
        r'Five ops prefer `"cuda"` to `"triton"`, because it is predicted to be faster: (.*?) of `circular`', page
    )
    assert {f"circular.{op}" for op in re.findall(r"`(\w+)`", said[1])} == CIRCULAR and len(CIRCULAR) == 5
    asked, library = [], backends.library
    monkeypatch.setattr(backends, "library", lambda *which, first=None: asked.append(first) or library(*which))
    for case in FIRST:
        asked.clear()
        case(case.inputs((2, 3), torch.float32), "reference")
        assert set(asked) == ({"cuda" if case.op in CIRCULAR else None} if case.kernels else set()), case.op


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
