"""Every CUDA kernel on the host under ASan, UBSan and TSan; kernels with a bug each show that they find one."""

import os
import re
import subprocess

import compiled
import cuda_on_host
import pytest

pytestmark = pytest.mark.skipif(cuda_on_host.missing() is not None, reason=str(cuda_on_host.missing()))

BUGS = [  # the kernel, who finds what is wrong with it, and in which words
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
# A stack that ASan makes up for each fiber, to notice pointers to what has returned, would take gigabytes.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "TSAN_OPTIONS": "halt_on_error=1",
}
SOUND = ("sound_barrier", "sound_warp_barrier", "sound_mask", "sound_teams")


def run(program: str, sanitizer: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [str(cuda_on_host.program(program, sanitizer)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | OPTIONS | environment)


@pytest.mark.parametrize(("name", "sanitizer", "words"), BUGS, ids=[name for name, *_ in BUGS])
def test_bugs_are_found(name, sanitizer, words):
    done = run("bugs", sanitizer, name)
    assert done.returncode != 0 and words in done.stderr


@pytest.mark.parametrize("sanitizer", cuda_on_host.SANITIZERS)
@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_where_nothing_is(name, sanitizer):
    done = run("bugs", sanitizer, name)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("order", ["up", "down"])
@pytest.mark.parametrize("sanitizer", cuda_on_host.SANITIZERS)
def test_kernels(sanitizer, order):
    done = run("driver", sanitizer, HOST_SHIM_ORDER=order)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-4000:]


def test_the_driver_runs_every_op():
    declared = re.findall(r"(?m)^void (\w+)\(const", "".join(path.read_text() for path in cuda_on_host.OPS))
    launching = re.findall(r"BFN_INSTANTIATE\((\w+)", "".join(path.read_text() for path in compiled.KERNELS))
    driver = (cuda_on_host.HERE / "driver.cpp").read_text()
    left_out = [op for op in sorted({*declared} & {*launching}) if not re.search(rf"\b{op}<\w+>\(", driver)]
    assert not left_out, (
        f"tests/cuda_on_host/driver.cpp needs a call of each of {left_out}, in the run_... of its family"
    )
