"""Several processes that share the classes compute what one process computes that has all classes."""

from functools import partial

import pytest
import torch
from torch import multiprocessing

from bfn_kernels import vocabulary
from tests.kernels.sharded import DTYPES, parameters, sampled, step, work, work_and_follow
from tests.kernels.support import NATIVE, error, scale, ulp
from tests.kernels.yardstick import check_close


def check(folder, backend, count, k):
    """Compares what `work` wrote with what one process computes."""
    processes = [torch.load(folder / str(rank)) for rank in range(count)]
    for dtype, found in zip(DTYPES, zip(*processes, strict=True), strict=True):
        for same in zip(*(results[:3] for results in found), strict=True):
            assert all(torch.equal(same[0], other) for other in same[1:])
        together = [*found[0][:3], *(torch.cat(parts) for parts in zip(*(r[3:] for r in found), strict=True))]
        rounded = [parameter.to(dtype) for parameter in parameters(k)]
        want = step(torch.float64, *rounded, "reference")
        check_close(together, want, partial(step, dtype, *rounded, "reference"))
    states, same = zip(*(torch.load(folder / f"sampled{rank}") for rank in range(count)), strict=True)
    want, want_same = sampled(*parameters(k)[:2], backend=backend)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat(states, -1), want, **close)
    for each, alone in zip(zip(*same, strict=True), want_same, strict=True):
        assert all(torch.equal(each[0], other) for other in each[1:])
        torch.testing.assert_close(each[0], alone, **close)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [backend for backend in ("cpu", "triton") if backend in NATIVE])
def test_processes_are_as_one(backend, tmp_path):
    """Also where the last of them has no class."""
    multiprocessing.spawn(work, (3, 4, backend, str(tmp_path)), 3)
    check(tmp_path, backend, 3, 4)


@pytest.mark.slow
@pytest.mark.skipif("cpu" not in NATIVE, reason="processes have the backend that is the default")
def test_the_guide_trains_in_two_processes_as_in_one(tmp_path):
    """The same two processes also call the ops one by one, with more classes."""
    (tmp_path / "ops").mkdir()
    multiprocessing.spawn(work_and_follow, (2, 1003, str(tmp_path)), 2)
    check(tmp_path / "ops", "cpu", 2, 1003)
    first, second, alone = (torch.load(tmp_path / name) for name in ("0", "1", "alone"))
    assert {"loss", "embedding.grad", "head.grad", "bias.grad", "body.0.weight.grad", "head"} <= alone.keys()
    for name, want in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert want.any() and error(first[name], want.double()) <= 64 * ulp(torch.float32, scale(want.double())), name


def test_a_group_and_the_number_of_classes_go_together():
    with pytest.raises(ValueError, match="process_group and num_classes must be given together"):
        vocabulary.flow_embedding(torch.tensor([1]), 0.5, torch.ones(4, 2), beta_1=1.0, num_classes=4)
