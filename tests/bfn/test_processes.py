"""Runs that are the work of two processes, which end as that of one process does."""

import json
import os
import random
import time

import pytest
import workers
from workers import Group

from bfn import checkpoint
from bfn.alone import lock
from bfn.train import LOG_FILE, MODEL_FILE, STATE_FILE

# Four micro-batches, so that each of two processes adds up the gradients of two.
STEPS = ["train.max_steps=6", "train.validate_every=3", "train.batch_size=32"]
MICRO = "train.micro_batch=8"
SHARDED = "train.fully_shard=true"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    from conftest import TINY

    """settings("train.seed=1") are those of a tiny run in a new directory, which is the last of them."""
    return lambda *more: [*TINY, *STEPS, *more, f"out={tmp_path_factory.mktemp('run')}"]


def out_of(settings):
    return settings[-1].removeprefix("out=")


@pytest.fixture(scope="module")
def alone(settings):
    """The directory of the run of one process."""
    mine = settings(MICRO)
    assert Group(1, workers.train, mine).ends() == [0]
    return out_of(mine)


def assert_alike(out, alone):
    """Weights, averages and moments are those of the run of one process, and so is what the run has measured."""
    for name in (STATE_FILE, MODEL_FILE):
        difference, state, expected = workers.differences(out, alone, name)
        assert difference < 1e-5
    assert state["step"] == expected["step"]
    assert state["validation_bits"] == pytest.approx(expected["validation_bits"], abs=1e-5)
    logs = [checkpoint.load(path)[1]["log"] for path in (f"{out}/{STATE_FILE}", f"{alone}/{STATE_FILE}")]
    for row, wanted in zip(*logs, strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**wanted, "seconds": 0}, abs=1e-5)


@pytest.mark.parametrize("more", [[], [SHARDED]], ids=["ddp", "fsdp2"])
def test_two_processes_end_as_one_of_twice_the_batch_does(more, settings, alone):
    both = settings(MICRO, *more)
    assert Group(2, workers.train, both).ends() == [0, 0]
    assert_alike(out_of(both), alone)


def test_a_run_goes_on_with_other_processes_from_where_a_sigterm_to_any_of_them_stopped_it(settings, alone):
    run = settings(MICRO)
    assert Group(2, workers.train, run, 1, 1).ends() == [130, 130]
    rest = settings()[:-1] + run[-1:]  # the micro-batches are those of the run so far
    assert Group(2, workers.train, [SHARDED, *rest], 3, 0).ends() == [130, 130]
    tensors, state = checkpoint.load(f"{out_of(run)}/{STATE_FILE}")
    assert state["position"]["step"] == 4 and tensors["optimizer.network.stem.weight.step"] == 4
    assert Group(1, workers.train, rest).ends() == [0]
    assert_alike(out_of(run), alone)
