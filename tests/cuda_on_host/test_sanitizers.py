"""Every CUDA kernel on the host under ASan, UBSan and TSan. Kernels with one bug each show that the sanitizers find
bugs."""

import os
import subprocess
import sys

import pytest

from tests import compiled
from tests.cuda_on_host import cuda_on_host
from tests.fuzz import sanitized

pytestmark = pytest.mark.skipif(cuda_on_host.missing() is not None, reason=str(cuda_on_host.missing()))

BUGS = [  # the kernel, the sanitizer that finds its bug, and words of the report
    ("missing_barrier", "thread", "data race"),
    ("missing_warp_barrier", "thread", "data race"),
    ("read_out_of_bounds", "address", "heap-buffer-overflow"),
    ("write_out_of_bounds", "address", "heap-buffer-overflow"),
    ("shared_out_of_bounds", "address", "index 64 out of bounds"),
    ("misaligned_vector", "address", "misaligned address"),
    ("divergent_barrier", "address", "not reached by every thread"),
    ("barrier_after_exit", "address", "not reached by every thread"),
    ("lanes_missing_from_shuffle", "address", "not reached by every thread"),
    ("lane_outside_mask", "address", "reads a lane that the mask leaves out"),
]
PRELOADED = {"address": ("libasan.so", "libubsan.so", "libstdc++.so"), "thread": ("libtsan.so", "libstdc++.so")}
SOUND = ("sound_barrier", "sound_warp_barrier", "sound_mask", "sound_teams", "sound_row_scalar")


def run(command: list, **environment: str) -> subprocess.CompletedProcess:
    environment = os.environ | sanitized.OPTIONS | environment
    return subprocess.run(command, cwd=compiled.ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("name", "sanitizer", "words"), BUGS, ids=[name for name, *_ in BUGS])
def test_bugs_are_found(name, sanitizer, words):
    done = run([cuda_on_host.bugs(sanitizer), name])
    assert done.returncode != 0 and words in done.stderr


@pytest.mark.parametrize("sanitizer", cuda_on_host.SANITIZERS)
@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_where_nothing_is(name, sanitizer):
    done = run([cuda_on_host.bugs(sanitizer), name])
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("order", ["up", "down"])
@pytest.mark.parametrize("sanitizer", cuda_on_host.SANITIZERS)
def test_kernels(sanitizer, order):
    """The memory of each tensor is an allocation of its own, of exactly its size."""
    preloaded = " ".join(map(sanitized.library, PRELOADED[sanitizer]))
    command = [sys.executable, "-m", "tests.cuda_on_host.every_call", cuda_on_host.operators(sanitizer)]
    done = run(command, HOST_SHIM_ORDER=order, LD_PRELOAD=preloaded)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), f"{done.stdout[-200:]}{done.stderr[-4000:]}"
