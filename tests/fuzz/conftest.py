"""Under `make fuzz` each property runs in a process of its own: a crash or a hang is a failure that names the call it
was in. In `make test` a crash ends a worker of pytest-xdist, which reports the test that it was in."""

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

LONGEST = 900  # seconds beyond the time asked for
M_PERTURB = -6  # of glibc's mallopt


@pytest.fixture(autouse=True)
def new_memory_is_full():
    """glibc fills new memory with 0xFE, so that numbers that were never written are huge or NaN."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None) if sys.platform == "linux" else lambda *_: None
    mallopt(M_PERTURB, 1)
    yield
    mallopt(M_PERTURB, 0)


def ended_by(code: int) -> str:
    return f"was ended by signal {-code}, a crash," if code < 0 else "failed"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    wanted = "FUZZ_SEED" in os.environ and getattr(pyfuncitem.module, "NATIVE_CODE", True)
    if "FUZZ_LAST_CALL" in os.environ or not wanted:
        return None  # this is that process, or none is needed
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder, "call")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment |= {"FUZZ_LAST_CALL": str(last)}
        where = f"{pyfuncitem.path}::{pyfuncitem.name}"
        options = [
            "-p",
            "no:xdist",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "--rootdir",
            str(pyfuncitem.config.rootpath),
        ]
        command = [sys.executable, "-m", "pytest", *options, "-c", str(pyfuncitem.config.inipath), where]
        limit = 60 * float(os.environ.get("FUZZ_MINUTES", 0)) + LONGEST
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            pytest.fail(f"a call did not come back in {limit:.0f} s: {last.read_text()}", pytrace=False)
        if done.returncode != 0:
            said = f"{done.stdout[-12000:]}\n{done.stderr[-6000:]}"
            call = last.read_text() if last.exists() else "none"
            pytest.fail(f"{said}\nThe process {ended_by(done.returncode)} its last call: {call}", pytrace=False)
    return True
