"""Training in fp16, whose gradients are scaled, as far as it needs no GPU."""

import math

import pytest
import torch

from bfn.training import checkpoint, processes
from bfn.training.runs import STATE_FILE


@pytest.fixture
def scaled(make, monkeypatch):
    """scaled(2.0**100, ...) is a trainer with the scaler of gradients that accelerate gives to training in fp16 on a
    GPU, whose scale starts there."""
    start = processes.start

    def trainer(init_scale, *overrides):
        def start_scaled(cpu, mixed_precision):
            accelerator = start(cpu, mixed_precision)
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=3)
            return accelerator

        monkeypatch.setattr(processes, "start", start_scaled)
        return make(*overrides)

    return trainer


def test_a_step_whose_scaled_gradients_overflow_leaves_weights_and_average_alone(scaled):
    trainer = scaled(8.0, "train.warmup_steps=1")
    weight, average = trainer.model.network.head.bias, trainer.averaged.network.head.bias
    weight.register_hook(lambda grad: grad * (math.inf if trainer.at.step < 2 else 1))
    before = weight.detach().clone()
    for step in (1, 2):
        trainer.step()
        assert trainer.at.step == step and trainer.accelerator.scaler.get_scale() == 8.0 / 2**step
        assert torch.equal(weight, before) and torch.equal(average, before) and trainer.at.averaged == 0
    trainer.step()
    assert not torch.equal(weight, before) and torch.equal(average, weight) and trainer.at.averaged == 1


def test_a_run_whose_steps_were_all_skipped_saves_and_goes_on(scaled, tmp_path):
    first = scaled(8.0, "train.max_steps=1", out := f"out={tmp_path / 'scaled'}")
    first.model.network.head.bias.register_hook(lambda grad: grad * math.inf)
    first.run()
    assert not any(name.startswith("optimizer.") for name in checkpoint.load(first.out / STATE_FILE)[0])
    again = scaled(8.0, "train.max_steps=2", out)
    again.run()
    assert {state["step"].item() for state in again.optimizer.state.values()} == {1}


def test_the_scale_of_gradients_goes_on_where_it_was(scaled, tmp_path):
    first = scaled(8.0, "train.max_steps=2", out := f"out={tmp_path / 'scaled'}")
    first.run()
    again = scaled(1.0, "train.max_steps=3", out)
    assert again.accelerator.scaler.get_scale() == 8.0
    again.run()
    assert again.accelerator.scaler.get_scale() == 16.0  # since the third step is one after two others
