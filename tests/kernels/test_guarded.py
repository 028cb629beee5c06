"""Nothing is read or written beyond a tensor: an access of the pages around each one ends the process."""

import signal
import subprocess
import sys

import pytest
import torch

from bfn_kernels import discrete
from tests.kernels.guarded import BEFORE, BEHIND, fill_stack, guarded
from tests.kernels.op_cases import CASES
from tests.kernels.support import INTERPRETED, NATIVE, PTX, evaluate, pairs
from tests.kernels.vocabulary_cases import LARGE, STEPS

pytestmark = pytest.mark.skipif(
    INTERPRETED or bool(PTX) or sys.platform != "linux", reason="the interpreters check accesses themselves"
)
SHAPES = [(3, 7), (2, 16)]  # an odd end, and one that whole vectors reach

BEYOND = """
import ctypes, sys
import torch
from tests.kernels.guarded import guarded

with guarded({end}):
    x = torch.zeros(1000)
ctypes.memset(x.data_ptr() + {inside}, 0, 4)
print("inside", flush=True)
ctypes.memset(x.data_ptr() + {outside}, 0, 1)
"""


@pytest.mark.parametrize(("end", "inside", "outside"), [(BEFORE, 3996, 4000), (BEHIND, 0, -1)])
def test_an_access_beyond_ends_the_process(end, inside, outside):
    code = BEYOND.format(end=end, inside=inside, outside=outside)
    folders = f"import sys; sys.path[:0] = {sys.path!r}\n"
    done = subprocess.run([sys.executable, "-c", folders + code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "inside\n"), done.stderr


def stays_within(case, backend) -> None:
    # Kernels go upwards, so that one type is enough to show that none begins too early.
    for end, dtype in ((BEHIND, torch.float32), (BEFORE, torch.float32), (BEFORE, torch.bfloat16)):
        for shape in SHAPES:
            with guarded(end):
                for value in evaluate(case, case.inputs(shape, dtype), backend).values():
                    assert value.isfinite().any()


@pairs(NATIVE)
def test_kernels_stay_within_their_tensors(case, backend):
    stays_within(case, backend)


@pytest.mark.skipif("cpu" not in NATIVE, reason="no other backend has kernels of tiles")
@pytest.mark.parametrize("case", LARGE + STEPS, ids=str)
def test_kernels_of_tiles_stay_within_their_tensors(case):
    stays_within(case, "cpu")


@pytest.mark.parametrize("backend", NATIVE)
def test_a_draw_stays_within_its_row(backend):
    """A row of 4100 classes is longer than a team of threads holds, and not a whole number of their shares."""
    for end in (BEHIND, BEFORE):
        with guarded(end):
            logits, state = torch.randn(2, 4100), torch.zeros(2, 4100)
            assert discrete.update_sample(logits, state, 1.0, seed=1, backend=backend).isfinite().all()


def depends_on_the_stack(case, backend) -> bool:
    """Whether what earlier calls left on the stack changes a result or a gradient: zeros, or NaN of every type."""
    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the kernels then run on this stack
    try:
        for byte in (0x00, 0xFF):
            results = {}
            for dtype in (torch.float32, torch.bfloat16, torch.float64):
                inputs = case.inputs(SHAPES[0], dtype)
                fill_stack(byte)
                results |= {(dtype, name): v for name, v in evaluate(case, inputs, backend).items()}
            found.append(results)
    finally:
        torch.set_num_threads(threads)
    zeros, nans = found
    return any(not torch.equal(value.nan_to_num(7.25), nans[name].nan_to_num(7.25)) for name, value in zeros.items())


@pytest.mark.skipif("cpu" not in NATIVE, reason="no other backend runs on this stack")
@pytest.mark.parametrize("case", [case for case in [*CASES, *LARGE, *STEPS] if case.kernels], ids=str)
def test_kernels_read_nothing_that_nobody_wrote(case):
    assert not depends_on_the_stack(case, "cpu")
