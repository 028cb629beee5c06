"""Under TRITON_INTERPRET=1 only the tests of the Triton kernels run, in Triton's interpreter; under BFN_PTX=cuda or
triton only those of what is compiled for a GPU, in the interpreter of tests/ptx."""

import importlib.util
import os

import cuda_ptx
import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PTX = os.environ.get("BFN_PTX")
# Tests that would show nothing new in an interpreter, or take too long: it is a thousand times slower than a backend.
LEFT_OUT = {
    "test_gradcheck": "gradients are compared with the reference's, of which gradcheck is the test",
    "test_a_second_derivative_is_an_error": "refused by what all operators share",
    "test_other_inputs_may_not_require_a_gradient": "refused before a backend is chosen",
    "test_bad_input": "refused before a backend is chosen; on a GPU a class out of range gives NaN",
    "test_threads_change_nothing": "the interpreter has one thread",
    "test_moments": "a million normals",
    "test_schemas_are_those_of_the_native_operators": "nothing runs",
    "test_tracing_for_a_gpu_that_is_not_there": "nothing runs",
}


def pytest_configure(config):
    if INTERPRETED and importlib.util.find_spec("triton") is None:
        pytest.exit("skipped: Triton is not installed, so its kernels cannot be tested (pip install triton)", 0)


def of_table(item) -> bool:
    return getattr(item, "originalname", item.name) == "test_agrees_with_the_float64_reference"


def dtype_of(item) -> torch.dtype:
    return item.callspec.params["dtype"]


def shows_something_new(item) -> bool:
    """Whether an interpreter should run this test. Triton's own one does not run the table in narrow types, in which
    tests/ptx runs every kernel as it is compiled."""
    if getattr(item, "originalname", item.name) in LEFT_OUT:
        return False
    return not (INTERPRETED and of_table(item) and dtype_of(item) in (torch.float16, torch.bfloat16))


def run_as_ptx(item) -> bool:
    """Whether tests/ptx runs this case of the table on what nvcc compiles: it runs every case in every type on shapes
    like these. The build of the same sources for the host shows nothing new by it but in float32, which remains, for
    shapes without elements and for the faults of tests/mutants."""
    return of_table(item) and item.callspec.params["backend"] == "cuda_on_host" and dtype_of(item) != torch.float32


def pytest_collection_modifyitems(config, items):
    if INTERPRETED or PTX:
        name = f"{PTX}_ptx" if PTX else "triton"
        keep = [i for i in items if name in i.nodeid and shows_something_new(i)]
    elif cuda_ptx.missing() is None:
        keep = [i for i in items if not run_as_ptx(i)]
    else:
        return
    kept = set(keep)
    config.hook.pytest_deselected(items=[i for i in items if i not in kept])
    items[:] = keep
