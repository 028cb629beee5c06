"""The law of the concentration of angles after few and accurate messages, and the work and memory that laws take."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bfn_kernels import circular, concentrations
from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.test_circular import simulated

ACCURATE = [
    [1e4, 1e4],
    [1e4] * 3,
    [1e4, 1e-4, 1e4],
    [1e4, 1e4, 1e-4],
    [1e4, 1.0, 1e4, 1.0],
    [1e3, 0.1, 0.1, 1e3, 1e3],
    [1e-3] * 20 + [1e4] * 2,
    [1e6] * 3,
    [1e4] * 6,
    [1e4, 1e4] + [1e-3] * 8,
    [0.3, 0.3, 1e-3, 1e-3],
    [2e4, 100, 26, 1e-3],
    [100, 100, 26, 1e-3],
    [1e3, 100, 10, 1e-2],
    [11.5, 1.39, 1e4, 1e4, 1, 1, 0.01, 0.0541, 1e4, 0.196, 1160, 0.01],
    [1e4, 2.19e4, 2.45e-4],
    [1e4, 1e4] + [1e-5] * 40,
    [1e4, 1e4] + [1e-4] * 10,
]


@pytest.mark.parametrize(
    "alphas",
    [pytest.param(alphas, marks=[pytest.mark.slow] * (place % 2)) for place, alphas in enumerate(ACCURATE)],
    ids=lambda alphas: " ".join(f"{each:g}" for each in alphas[-5:]),
)
def test_few_accurate_messages_leave_no_staircase(alphas):
    """Quantiles differ from sums of messages, in float64, by less than 0.01 in the distribution function. The table's
    quantiles do so but for a rounding to float32."""
    exact = list(simulated(alphas, 200_000))[-1][1].sort().values
    *_, law = concentrations.laws(alphas)
    assert law.weights.sum().item() == pytest.approx(1, abs=1e-9)
    assert distance(concentrations.quantiles(law), exact) < 0.01
    assert distance(VonMisesAccuracy(alphas).table[-1], exact, torch.finfo(torch.float32).eps) < 0.01


def distance(quantiles, exact, rounding=0.0):
    """The largest difference of the distribution functions of a table's draws and of the draws `exact`. Each of the
    table's draws may have this relative error."""
    z, most = torch.linspace(-5, 5, 20_001, dtype=torch.float64), 0.0
    c = circular.reference.concentrations(torch.zeros(1), quantiles[None], z.to(quantiles.dtype)).double()
    for side in ("left", "right"):  # several z may share a concentration
        index = torch.searchsorted(c, c, side=side) - int(side == "right")
        low, high = (torch.searchsorted(exact, c * (1 + off), side=side) / len(exact) for off in (-rounding, rounding))
        below = torch.special.ndtr(z)[index]
        most = max(most, (low - below).max().item(), (below - high).max().item())
    return most


def test_small_messages_shift_the_nodes():
    """Each adds α² + 2αA(α)·E c·A(c) to the mean of c². No other test sees such small differences."""
    alpha, cosine = 2e-6, float(concentrations.ratio(torch.tensor(1.0, dtype=torch.float64)))
    _, before, *later = concentrations.laws([1.0, 1.0] + [alpha] * 7)
    for count, law in enumerate(later, 1):
        added = law.mean(law.nodes.square()) - before.mean(before.nodes.square())
        assert added == pytest.approx(count * alpha**2 * (1 + 2 * cosine), rel=1e-3)


def test_the_fall_of_the_entropy_keeps_its_digits():
    """Also on both sides of the concentration up to which it is a series. The expected fall is computed from the series
    of I₀ and of its derivative."""
    c = torch.tensor([1e-9, 1e-3, 0.05, 0.0999999, 0.1, 0.2, 0.9], dtype=torch.float64)
    k = torch.arange(1, 12, dtype=torch.float64)[:, None]
    terms = (c / 2) ** (2 * k) / (k + 1).lgamma().exp() ** 2
    rest = terms.sum(0)  # I₀ − 1
    want = 2 * (k * terms).sum(0) / (1 + rest) - rest.log1p()
    torch.testing.assert_close(concentrations.entropy_fall(c), want, rtol=1e-12, atol=0)


class Work(TorchDispatchMode):
    """Counts the calls of torch with so many results that they may start threads, and the results of all calls and of
    the largest one."""

    large = results = largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        count = result.numel() if isinstance(result, torch.Tensor) else 0
        self.largest = max(self.largest, count)
        self.large, self.results = self.large + (count > 6 * 2048), self.results + count
        return result


@pytest.mark.parametrize(
    "alphas", [[1e6] * 3, [1e7] * 3, [1e12] * 4, [3e4, 1e-4, 3e4], [1e30, 1.0, 1e30], [1.0, 1.0, 1e30]]
)
def test_a_table_of_huge_accuracies_takes_little_memory(alphas):
    """No tensor is larger than 2 MB, and a few dozen are held at a time."""
    with Work() as found:
        table = torch.stack([concentrations.quantiles(law) for law in concentrations.laws(alphas)])
    assert table.isfinite().all() and found.largest < 250_000
    torch.testing.assert_close(table[-1, -1].item(), sum(alphas), rtol=1e-5, atol=0)


def test_a_schedule_and_its_table_take_little_work():
    """Counts stand for seconds, which depend on the machine: 1000 messages take less than one second of a core."""
    with Work() as found:
        schedule = VonMisesAccuracy.linear_entropy(100, 100.0)
        assert schedule.table.shape == (101, concentrations.QUANTILES)
    assert found.large < 90 and found.results < 180e6, (found.large, found.results)


def test_a_table_is_made_without_a_warning():
    """Torch gives most of its warnings only once in a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert VonMisesAccuracy([0.5] * 8).table.isfinite().all()
    finally:
        torch.set_warn_always(before)


def test_accuracies_whose_sum_is_beyond_float32_are_refused():
    with pytest.raises(ValueError, match=r"alphas must be a vector of positive, finite numbers, at least .* 3.4e38"):
        VonMisesAccuracy([3e38, 3e38])


def test_quantiles_are_alike_at_both_ends_of_a_law():
    """The law has two nodes that are so close that c² is linear between them. `bend` is not symmetric."""
    law = concentrations.Law(torch.tensor([1 - 1e-6, 1 + 1e-6], dtype=torch.float64), torch.tensor([0.5, 0.5]).double())
    found = (concentrations.quantiles(law) - 1) / 1e-6
    torch.testing.assert_close(found, -found.flip(0), rtol=0, atol=0.03)
    assert found.isfinite().all() and found[-1] > 0.2
