"""Under TRITON_INTERPRET=1 only the tests of the Triton kernels run, in Triton's interpreter; under BFN_PTX=cuda or
triton only those of what is compiled for a GPU, in the interpreter of tests/ptx."""

import importlib
import importlib.util
import os

import pytest
import torch

from tests.ptx import cuda_ptx

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PTX = os.environ.get("BFN_PTX")
# Tests that would show nothing new in an interpreter, or take too long: it is a thousand times slower than a backend.
LEFT_OUT = {
    "test_opcheck": "the fakes are those of all backends; results have the reference's types and shapes in other tests",
    "test_kernels_stay_within_their_tensors": "tests/ptx looks at every access of the kernels as they are compiled",
    "test_bad_input": "refused before a backend is chosen; on a GPU a class out of range gives NaN",
    "test_a_gradient_that_is_a_twentieth_too_large_is_seen": "the CPU trains as few steps as Triton here",
}
# Tests of each case in each type.
TABLES = {"test_agrees_with_the_float64_reference", "test_backends_make_the_same_noise"}


def pytest_configure(config):
    if INTERPRETED and importlib.util.find_spec("triton") is None:
        pytest.exit("skipped: Triton is not installed, so its kernels cannot be tested (pip install triton)", 0)


def of_table(item) -> bool:
    return getattr(item, "originalname", item.name) == "test_agrees_with_the_float64_reference"


def dtype_of(item) -> torch.dtype:
    return item.callspec.params["dtype"]


def shows_something_new(item) -> bool:
    """Whether an interpreter should run this test. Triton's own one runs no case of 3 classes, which fill a tile in
    part as 27 do. It does not run the tables in narrow types, in which tests/ptx runs every kernel as it is compiled,
    and runs them in float64 for one case of each op."""
    name = getattr(item, "originalname", item.name)
    if name in LEFT_OUT:
        return False
    case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
    if not INTERPRETED or case is None:
        return True
    if case.num_classes == 3:
        return False
    if name not in TABLES or dtype_of(item) == torch.float32:
        return True
    # This module needs Triton: pytest_configure has seen by now that Triton is there.
    joins = importlib.import_module("tests.kernels.support").joins
    return dtype_of(item) == torch.float64 and joins(case)


def run_as_ptx(item) -> bool:
    """Whether tests/ptx shows the same of what nvcc compiles, by which the build of the same sources for the host shows
    nothing new. It runs the table, densely and from seeds too, of which `make test` leaves out float64 there, but no
    large vocabularies, and looks at each access."""
    name = getattr(item, "originalname", item.name)
    if name == "test_kernels_stay_within_their_tensors":
        return item.callspec.params["backend"] == "cuda_on_host"
    if name == "test_vectors":
        return item.callspec.params["backend"] == "cuda_on_host" and dtype_of(item) != torch.float32
    seeded = name == "test_backends_make_the_same_noise"
    if not (of_table(item) or seeded) or item.callspec.params["backend"] != "cuda_on_host":
        return False
    if seeded:
        return dtype_of(item) == torch.float32 and not item.callspec.params["case"].hard
    wide = torch.float64 if item.callspec.params["case"].family != "vocabulary" else torch.float32
    return dtype_of(item).itemsize < wide.itemsize


def pytest_collection_modifyitems(config, items):
    if INTERPRETED or PTX:
        name = f"{PTX}_ptx" if PTX else "triton"
        keep = [i for i in items if name in i.nodeid and shows_something_new(i)]
    else:
        there = cuda_ptx.missing() is None
        keep = [i for i in items if not (there and run_as_ptx(i))]
    chosen = set(keep)
    config.hook.pytest_deselected(items=[i for i in items if i not in chosen])
    items[:] = keep
