"""An error inside a `with` leaves nothing behind: modes, grad mode, receivers, signals, locks and files are as
they were before."""

import signal

import pytest
import torch

from bfn.results import tables
from bfn.sample import fast
from bfn.training.checkpoint import write_atomically
from bfn.training.run_lock import lock


class Stopped(Exception):
    """The error of a test."""


def stop(*arguments, **keywords):
    raise Stopped


def modes(model) -> list:
    """All that a sampling run or a compiler changes of a model and of torch."""
    training = [module.training for module in model.modules()]
    return [*training, "forward" in vars(model.network), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]


@pytest.fixture
def part(pair):
    """A model with a part in evaluation mode, since this part is not trained."""
    model, _ = pair
    next(model.network.children()).eval()
    assert {True, False} <= set(modes(model)[:-3])
    return model


@pytest.mark.parametrize("pair", ["digits_binary"], indirect=True)
def test_sampling_fast_that_fails_leaves_the_network_as_it_was(part, tiny):
    """In its body, or while the choices are tried: Ctrl-C may come at any time."""
    config = tiny("digits_binary", "train.compiler=eager", "train.mixed_precision=bf16")
    before = modes(part)
    with pytest.raises(Stopped), fast(part, config, 2, 3, print):
        assert modes(part)[-3:] == [True, True, True]
        stop()
    assert modes(part) == before
    with pytest.MonkeyPatch.context() as patched:

        def choose(allowed, left, try_out, say, compiling):
            patched.setattr("bfn.sample.timed", stop)
            try_out(allowed[0], 1)

        patched.setattr("bfn.sample.choose", choose)
        with pytest.raises(Stopped), fast(part, config, 2, 3, print):
            pass
    assert modes(part) == before


@pytest.mark.parametrize("pair", ["text"], indirect=True)
def test_a_bound_that_fails_leaves_the_receiver(pair, tiny, monkeypatch):
    model, data = pair
    monkeypatch.setattr(tables, "evaluate", stop)
    with pytest.raises(Stopped):
        next(tables.bounds(model, data, tiny("text"), [3]))
    assert model.receiver == "joint"


def test_a_run_that_fails_leaves_signals_its_directory_and_its_files(make):
    trainer, numbers = make("train.max_steps=3", "train.validate_every=1"), (signal.SIGINT, signal.SIGTERM)
    before = list(map(signal.getsignal, numbers))

    def step():
        trainer.at.step += 1
        trainer.losses.append(torch.zeros(()))
        if trainer.at.step == 2:
            assert list(map(signal.getsignal, numbers)) != before
            stop()

    trainer.step, trainer.model = step, object()  # as a model that accelerate has wrapped for several processes
    with pytest.raises(Stopped):
        trainer.run()
    assert list(map(signal.getsignal, numbers)) == before
    assert trainer.lock.closed and trainer.model is trainer.bare
    lock(trainer.out).close()  # another run may begin
    with pytest.raises(RuntimeError, match="cannot schedule new futures"):
        trainer.writer.submit(stop)


def test_a_file_whose_content_fails_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(Stopped):
        write_atomically(path, stop)
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]
