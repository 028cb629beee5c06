"""Benchmarks measure in memory that a network's step has left, as in training."""

import os
import subprocess
import sys

import pytest

from benchmarks import __main__ as everything
from benchmarks import (
    heap,
    likeliest_classes,
    linear_heads,
    measure,
    noisy_embeddings,
    other_revision,
    patched,
    training,
    vocabularies,
)
from benchmarks.clients import __main__ as clients
from benchmarks.devices import Cpu
from benchmarks.memory import HUGE_PAGES

# How many pages the system clears for 12 new tensors of 8 MiB, the first of the process and those after a step.
FAULTS = """
import resource, torch
from benchmarks import heap
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept.append([torch.ones(2**21) for _ in range(12)])
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
kept = []
fresh = faults()
heap.warm()
print(fresh, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_the_heap_keeps_what_a_step_has_freed():
    small = {k: v for k, v in os.environ.items() if k != HUGE_PAGES}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=small)
    fresh, warm = map(int, done.stdout.split())
    assert fresh > 20_000 and warm < 2000  # pages of 4 KiB


ALONE = (everything, clients, training, vocabularies, noisy_embeddings, linear_heads)  # tools that need no argument
TOOLS = {**{tool: [] for tool in ALONE}, patched: ["--official", "{}"], likeliest_classes: ["--duo", "{}"]}


class Begun(Exception):
    pass


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_every_tool_trains_a_network_first(tool, monkeypatch, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "one.yaml").touch()

    def begun(device):
        raise Begun

    monkeypatch.setattr(measure, "begun", begun)
    monkeypatch.setattr(measure, "timings", None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(Begun):
        tool.main([argument.format(tmp_path) for argument in TOOLS[tool]])


def test_a_process_that_is_measured_says_so(monkeypatch):
    did = []
    monkeypatch.setattr(measure.memory, "start_server", lambda: did.append("server"))
    monkeypatch.setattr(heap, "warm", lambda: did.append("warm"))
    assert measure.begun(Cpu())["heap"] == measure.TRAINED
    assert did == ["server", "warm"]


def test_the_process_of_another_revision_trains_too(monkeypatch):
    class Closed:
        def recv(self):
            raise EOFError

    did = []
    monkeypatch.setattr(heap, "warm", lambda: did.append("warm"))
    other_revision.serve(Closed(), "cpu")
    assert did == ["warm"]
