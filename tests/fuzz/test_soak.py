"""Long use: memory that does not grow, threads, forks and interrupts. `make fuzz` makes ten times as many calls."""

import multiprocessing
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bfn_kernels import binary, continuous, discrete, discretised
from tests.fuzz.drawn_calls import SCALE

NATIVE_CODE = False  # is attacked: these calls are all as they should be
CALLS = round(10_000 * SCALE)
MIB = 2**20


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def step(seed: int, wide: int = 16) -> list[Tensor]:
    """Flows and losses of every family, and the gradients."""
    x = torch.linspace(-1, 1, wide).expand(2, wide)
    classes = torch.arange(wide).expand(2, wide) % 5
    t, leaf = torch.tensor([0.2, 0.7]), torch.zeros(2, wide, requires_grad=True)
    logits = torch.zeros(2, wide, 5, requires_grad=True)
    mean = continuous.flow_sample(x, t, sigma_1=0.1, seed=seed)
    theta = discrete.flow_sample(classes, t, num_classes=5, beta_1=1.0, seed=seed)
    losses = [
        continuous.continuous_time_loss(x, leaf + mean, mean, t, sigma_1=0.1),
        discretised.continuous_time_loss(x, leaf + mean, leaf, mean, t, sigma_1=0.1, num_bins=16),
        discrete.discrete_time_loss(classes, logits + theta, 0.5, n_steps=10, beta_1=1.0, seed=seed),
        binary.continuous_time_loss(classes % 2, leaf, t, beta_1=1.0),
    ]
    return [mean, theta, *torch.autograd.grad(sum(losses), (leaf, logits))]  # type: ignore[arg-type]


def same(got: list[Tensor], want: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_memory_does_not_grow():
    for seed in range(CALLS // 100):
        step(seed)
    before = resident()
    for seed in range(CALLS // 10):  # each makes ten calls of ops
        step(seed)
    assert resident() - before < 4 * MIB


def test_threads_do_not_disturb_each_other():
    want = [step(seed, 300) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: step(seed, 300), list(range(8)) * round(8 * SCALE)))
    assert all(same(got, want[i % 8]) for i, got in enumerate(found))


class Noisy(torch.utils.data.Dataset):
    """Examples that the workers of a loader make noisy."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return continuous.flow_sample(torch.zeros(70_000), 0.5, sigma_1=0.1, seed=index)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there are no forks here")
def test_forks_after_use():
    """torch's loader forks its workers when this process has used its threads."""
    want = [Noisy()[i] for i in range(8)]
    loader = DataLoader(Noisy(), batch_size=None, num_workers=2, timeout=60, multiprocessing_context="fork")
    assert same(list(loader), want)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
def test_interrupts_leave_the_ops_as_they_were():
    assert threading.current_thread() is threading.main_thread()
    want, interrupted = step(3, 300), 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for i in range(round(20 * SCALE)):
            signal.setitimer(signal.ITIMER_REAL, 1e-4 + 2e-4 * (i % 20))
            try:
                while True:
                    step(3, 300)
            except KeyboardInterrupt:
                interrupted += 1
            assert same(step(3, 300), want)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted == round(20 * SCALE)
