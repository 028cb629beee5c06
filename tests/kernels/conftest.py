"""Under TRITON_INTERPRET=1 only the tests of the Triton kernels run, in Triton's interpreter; under BFN_PTX=cuda or
triton only those of what is compiled for a GPU, in the interpreter of tests/ptx."""

import importlib.util
import os

import pytest

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


def pytest_collection_modifyitems(config, items):
    if not INTERPRETED and not PTX:
        return
    name = f"{PTX}_ptx" if PTX else "triton"
    keep = [i for i in items if name in i.nodeid and getattr(i, "originalname", i.name) not in LEFT_OUT]
    config.hook.pytest_deselected(items=[i for i in items if i not in set(keep)])
    items[:] = keep
