"""An error inside a `with` or a measurement of the benchmarks leaves nothing behind."""

import argparse
import gc

import pytest
import torch

from benchmarks import measure, time_to_quality
from benchmarks.clients.checkouts import given
from benchmarks.devices import Cpu
from tests.bfn.test_restored import Stopped, stop


def test_explicit_noise_ends_with_its_body():
    before = torch.randn, torch.randn_like, torch.normal, torch.rand, torch.get_default_dtype()
    with pytest.raises(Stopped), given(torch.zeros(2)):
        assert torch.randn(2).tolist() == [0, 0] and torch.get_default_dtype() == torch.float64
        stop()
    assert (torch.randn, torch.randn_like, torch.normal, torch.rand, torch.get_default_dtype()) == before


@pytest.mark.parametrize("collecting", [True, False])
def test_timings_that_fail_leave_the_garbage_collector(collecting):
    states = []

    class Failing(Cpu):
        def clock(self, run, calls=1):
            states.append(gc.isenabled())
            return 1.0 if (states[-1] and collecting) or len(states) < 2 else stop()

    before = gc.isenabled()
    try:
        gc.enable() if collecting else gc.disable()
        with pytest.raises(Stopped):
            measure.timings({"a": lambda: None}, 0.5, Failing())
        assert gc.isenabled() == collecting and not states[-1]
    finally:
        gc.enable() if before else gc.disable()


def test_an_experiment_that_fails_ends_its_processes(monkeypatch, tmp_path):
    closed = []

    class Process:
        def __init__(self, name, config, official):
            self.name = name

        def ask(self, *arguments):
            stop()

        def close(self):
            closed.append(self.name)

    monkeypatch.setattr(time_to_quality, "Process", Process)
    monkeypatch.setattr(time_to_quality, "load_data", lambda config: None)
    monkeypatch.setattr(time_to_quality, "build_model", stop)
    options = argparse.Namespace(quick=True, two=False, seconds=None, official=None, text=tmp_path)
    with pytest.raises(Stopped):
        time_to_quality.experiment("shakespeare", 0, options, time_to_quality.Results([], [], [], []), stop)
    assert closed == list(time_to_quality.LOOPS)
