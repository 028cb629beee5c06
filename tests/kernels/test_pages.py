"""Large outputs of the CPU kernels lie in pages that earlier ones left."""

import sys

import pytest
import torch

from bfn_kernels import backends, continuous
from tests.kernels.support import NATIVE

pytestmark = pytest.mark.skipif("cpu" not in NATIVE or sys.platform != "linux", reason="native kernels on Linux alone")
MIB = 2**20


def flow(mib: int) -> torch.Tensor:
    x = torch.zeros(1, mib * MIB // 4)
    return continuous.flow_sample(x, torch.tensor([0.5]), sigma_1=0.1, seed=1)


def updated(mib: int) -> torch.Tensor:
    """Of as many numbers in less time, since they need no noise."""
    x = torch.zeros(1, mib * MIB // 4)
    return continuous.bayesian_update(x, 1.0, x, 1.0)[0]


def test_pages_are_filled_again():
    first, other = flow(8), flow(8)
    assert first.data_ptr() != other.data_ptr()
    expected, place = first.clone(), first.data_ptr()
    first.fill_(torch.nan)
    del first
    again = flow(8)
    assert again.data_ptr() == place
    assert torch.equal(again, expected)


def test_a_view_keeps_them():
    out = flow(8)
    view, expected = out[0, 5:9], out[0, 5:9].clone()
    place = out.data_ptr()
    del out
    assert flow(8).data_ptr() != place
    assert torch.equal(view, expected)


def test_small_outputs_and_other_sizes_are_their_own():
    small, large = flow(1), flow(12)
    place = large.data_ptr()
    del large
    assert flow(8).data_ptr() != place
    small.resize_(3)  # tensors in such pages cannot be resized


def mapped() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096


@pytest.mark.slow
def test_no_more_than_a_gibibyte_is_left():
    before = mapped()
    outputs = [updated(384 + 2 * i) for i in range(3)]
    assert mapped() - before > 1100 * MIB
    del outputs
    assert mapped() - before < 1024 * MIB


@pytest.fixture
def usual():
    yield
    backends.keep_memory(2**30)


def lazily_free() -> int:
    with open("/proc/self/smaps") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("LazyFree:")) * 1024


def test_the_system_may_take_all_but_a_few_of_them(usual):
    """In every round, since what is taken again and what is given back is no longer counted."""
    for _ in range(3):
        backends.keep_memory(0)
        backends.keep_memory(2**30)
        before = lazily_free()
        few, more = [flow(8) for _ in range(4)], [flow(8) for _ in range(2)]
        del few
        assert lazily_free() == before
        del more
        assert lazily_free() - before == 16 * MIB
        again = [flow(8) for _ in range(6)]
        assert lazily_free() == before
        del again
        assert lazily_free() - before == 16 * MIB


def test_what_is_left_can_be_bounded_and_ended(usual):
    backends.keep_memory(0)
    backends.keep_memory(110 * MIB)
    outputs = [updated(100), updated(102)]
    before = mapped()
    del outputs
    assert 90 * MIB < before - mapped() < 110 * MIB
    backends.keep_memory(0)
    assert before - mapped() > 200 * MIB
    flow(8).resize_(3)  # torch's own memory


def test_an_output_beyond_the_bound_takes_no_others_place(usual):
    backends.keep_memory(0)
    backends.keep_memory(20 * MIB)
    small, large = flow(8), flow(24)
    before = mapped()
    del small
    del large  # goes back to the system, and the small one stays
    assert 20 * MIB < before - mapped() < 30 * MIB


def test_a_bound_that_is_none():
    for most, error in ((-1, ValueError), (1.5, TypeError), ("1 GiB", TypeError)):
        with pytest.raises(error):
            backends.keep_memory(most)
