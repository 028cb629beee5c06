"""How a batch is divided into micro-batches, and these among processes."""

import pytest
import torch

from bfn.configs import ConfigError, TrainConfig
from bfn.data import Data
from bfn.training.batches import Batches, moved, size_of_micro_batch

EXAMPLES = torch.arange(100)


def data_of(draw=None):
    return Data(EXAMPLES, EXAMPLES, EXAMPLES, num_classes=100, baseline=0.0, draw=draw)


def batches_of(step, rank=0, processes=1, data=None, **settings):
    """The micro-batches of a step that a process takes."""
    train = TrainConfig(**{"batch_size": 48, **settings})
    return list(Batches(data or data_of(), train, rank, processes).of(step))


@pytest.mark.parametrize("n_steps", [None, 5])
def test_processes_share_the_micro_batches_that_one_process_takes(n_steps):
    alone = batches_of(3, micro_batch=8, n_steps=n_steps)
    shares = [batches_of(3, rank, 3, micro_batch=8, n_steps=n_steps) for rank in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    for index, batch in enumerate(alone):
        other = shares[index % 3][index // 3]
        assert torch.equal(batch.x, other.x) and torch.equal(batch.t, other.t) and batch.seed == other.seed
    assert len(torch.cat([batch.x for batch in alone]).unique()) == 48
    assert len({batch.seed for batch in alone}) == 6


@pytest.mark.parametrize("micro", [48, 8])
def test_examples_and_times_do_not_depend_on_the_micro_batches(micro):
    whole, parts = batches_of(7), batches_of(7, micro_batch=micro)
    assert [len(part.x) for part in parts] == [micro] * (48 // micro)
    assert torch.equal(torch.cat([part.x for part in parts]), whole[0].x)
    times = torch.cat([part.t for part in parts])
    assert torch.equal(times, whole[0].t)
    torch.testing.assert_close(times.sort().values.diff(), torch.full((47,), 1 / 48), atol=1e-6, rtol=0)


def test_the_share_of_a_process_is_one_micro_batch_if_none_is_set():
    shares = [batches_of(0, rank, 4) for rank in range(4)]
    assert [[len(batch.x) for batch in share] for share in shares] == [[12]] * 4
    assert torch.equal(torch.cat([share[0].x for share in shares]), batches_of(0)[0].x)


def test_what_is_drawn_anew_differs_between_micro_batches_and_steps_and_comes_from_the_seed():
    drawing = data_of(lambda x, generator: torch.rand(len(x), generator=generator))
    first, second = batches_of(0, data=drawing, micro_batch=24)
    third, fourth = batches_of(1, data=drawing, micro_batch=24)
    assert len(torch.cat([first.x, second.x, third.x, fourth.x]).unique()) == 96
    assert torch.equal(batches_of(0, 1, 2, drawing, micro_batch=24)[0].x, second.x)
    assert not torch.equal(batches_of(0, data=drawing, micro_batch=24, seed=1)[0].x, first.x)


@pytest.mark.parametrize(
    ("settings", "examples", "processes", "message"),
    [
        ({"batch_size": 10}, 100, 4, "4 processes cannot share a batch of 10 examples: set train.batch_size"),
        ({"batch_size": 200}, 99, 2, "2 processes cannot share a batch of 99 examples"),
        ({"batch_size": 10, "micro_batch": 4}, 100, 1, "train.micro_batch=4 does not divide a batch of 10 examples"),
        ({"batch_size": 10, "micro_batch": 20}, 100, 1, "train.micro_batch=20 does not divide"),
        ({"batch_size": 24, "micro_batch": 8}, 100, 2, "2 processes cannot share 3 micro-batches .* divisor of 12"),
        ({"batch_size": 24, "micro_batch": 24}, 100, 2, "2 processes cannot share 1 micro-batches"),
        ({"batch_size": 25, "micro_batch": 5}, 100, 2, "batch of 25 examples: set train.batch_size to a multiple of 2"),
    ],
)
def test_shares_that_are_not_equal_are_refused(settings, examples, processes, message):
    with pytest.raises(ConfigError, match=message):
        size_of_micro_batch(TrainConfig(**settings), examples, processes)


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_that_a_thread_makes_ahead_are_the_same(processes, monkeypatch):
    train = TrainConfig(batch_size=8, micro_batch=2)
    for rank in range(processes):
        want = Batches(data_of(), train, rank, processes)
        with monkeypatch.context() as patched:
            patched.setattr("bfn.training.batches.fits", lambda tensor, device: False)
            ahead = Batches(data_of(), train, rank, processes)
        assert want.resident and not ahead.resident
        for step in (0, 1, 2, 5, 6, 3):  # in order, and as a run that goes on elsewhere
            got, made = list(ahead.of(step)), list(want.of(step))
            assert len(got) == len(made) == 4 // processes
            for one, other in zip(got, made, strict=True):
                assert torch.equal(one.x, other.x) and torch.equal(one.t, other.t) and one.seed == other.seed


def test_windows_that_overlap_take_the_memory_of_their_text_on_another_device():
    text = torch.arange(100, dtype=torch.uint8)
    windows = text[10:].unfold(0, 16, 1)
    there = moved(windows, torch.device("meta"))
    assert there.device.type == "meta" and there.untyped_storage().nbytes() == 100
    assert (there.shape, there.stride(), there.storage_offset()) == (windows.shape, windows.stride(), 10)
    assert moved(windows, windows.device) is windows
