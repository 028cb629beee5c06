"""A step waits for nothing; a run learns from time to time what its steps did."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bfn.data import load_data
from bfn.training import processes
from bfn.training.trainer import Trainer


class Reads(TorchDispatchMode):
    """Counts the operations for which a program waits for the device, since it reads what a tensor holds. AdamW's
    counters of steps are not counted: they lie on the CPU, whatever the device is."""

    def __init__(self, adamw):
        super().__init__()
        self.count, self.adamw = Counter(), adamw

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        reads = function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        if reads and not any(args[0] is state["step"] for state in self.adamw.state.values()):
            self.count[str(function)] += 1
        return function(*args, **(kwargs or {}))


def refuse(*args):
    raise AssertionError("processes were asked for something in a step")


@pytest.mark.parametrize("name", ["digits", "digits_binary", "digits_continuous", "text"])
@pytest.mark.parametrize("setting", ["train.n_steps=null", "train.n_steps=7", "train.micro_batch=8"])
def test_nothing_in_a_step_waits_for_the_device_or_for_other_processes(name, setting, tiny, monkeypatch):
    config = tiny(name, setting)
    trainer = Trainer(config, load_data(config))
    monkeypatch.setattr("bfn_kernels.declarations.shows", lambda x: False)  # ops read numbers that lie on the CPU alone
    for function in ("add_up", "from_main", "together"):
        monkeypatch.setattr(processes, function, refuse)
    with Reads(trainer.bare_optimizer) as reads:
        for _ in range(3):
            trainer.step()
    assert not reads.count
    with pytest.raises(AssertionError, match="processes were asked"):
        trainer.begin_clock()
        trainer.look()
    asked = []
    monkeypatch.setattr(processes, "add_up", lambda tensor: asked.append(len(tensor)) or tensor)
    trainer.look()
    assert asked == [5]  # once: for the seconds, whether to stop, and three losses
    with Reads(trainer.bare_optimizer) as reads:
        torch.ones(()).item()
    assert reads.count.total() == 1


def test_a_run_looks_about_once_a_second_and_at_the_latest_after_a_thousand_steps(make, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("bfn.training.trainer.time", SimpleNamespace(monotonic=lambda: clock[0]))
    trainer = make()
    trainer.begin_clock()
    for steps, seconds, next_steps in ((4, 0.5, 8), (4, 8.0, 1), (100, 0.0625, 1000)):
        trainer.at.step += steps
        trainer.losses = [torch.zeros(())] * steps
        clock[0] += seconds
        assert not trainer.look()
        assert trainer.next_look - trainer.at.step == next_steps


def test_the_losses_of_a_run_that_goes_on_are_counted_from_there(make, monkeypatch):
    monkeypatch.setattr("bfn.training.trainer.LOOK_STEPS", 2)
    whole, parts = make("train.max_steps=9"), make("train.max_steps=5")
    whole.run()
    parts.run()
    rest = Trainer(replace(parts.config, train=replace(parts.config.train, max_steps=9)), parts.data)
    rest.run()
    assert not rest.losses
    assert rest.log[-1]["train_bits"] > 0
    bits = [row["train_bits"] * steps for row, steps in zip(rest.log, (5, 4), strict=True)]
    assert sum(bits) == pytest.approx(9 * whole.log[-1]["train_bits"], rel=1e-6)
