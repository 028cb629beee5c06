"""Classes that several processes share give what one process gives that has them all."""

import pytest
import torch
from sharded import parameters, sampled, step, work
from support import NATIVE, error, scale, ulp
from torch import multiprocessing
from vocabulary_guide import follow

from bfn_kernels import discrete


@pytest.mark.skipif("cpu" not in NATIVE, reason="processes have the backend that is the default")
def test_two_processes_are_as_one(tmp_path):
    multiprocessing.spawn(work, (2, str(tmp_path)), 2)
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    for mine, other in zip(first[:3], second[:3], strict=True):
        assert torch.equal(mine, other)
    together = [*first[:3], *(torch.cat(parts) for parts in zip(first[3:], second[3:], strict=True))]
    one, want = step(torch.float32, *parameters()), step(torch.float64, *parameters(), "reference")
    for got, alone, exact in zip(together, one, want, strict=True):
        assert error(got, exact) <= max(2 * error(alone, exact), 4 * ulp(torch.float32, scale(exact)))
    (states, same), (other_states, as_there) = (torch.load(tmp_path / f"sampled{rank}") for rank in range(2))
    want, want_same = sampled(*parameters()[:2])
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.cat([states, other_states], -1), want, **close)
    for mine, other, alone in zip(same, as_there, want_same, strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, alone, **close)


@pytest.mark.skipif("cpu" not in NATIVE, reason="processes have the backend that is the default")
def test_the_guide_trains_in_two_processes_as_in_one(tmp_path):
    found = []
    for count in (2, 1):
        folder = tmp_path / str(count)
        folder.mkdir()
        multiprocessing.spawn(follow, (count, count, str(folder)), count)
        found += [torch.load(folder / str(rank)) for rank in range(count)]
    first, second, alone = found
    assert {"loss", "embedding.grad", "head.grad", "bias.grad", "body.0.weight.grad", "head"} <= alone.keys()
    for name, want in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert want.any() and error(first[name], want.double()) <= 64 * ulp(torch.float32, scale(want.double())), name


def test_a_group_and_the_number_of_classes_go_together():
    with pytest.raises(ValueError, match="process_group and num_classes must be given together"):
        discrete.flow_embedding(torch.tensor([1]), 0.5, torch.ones(4, 2), beta_1=1.0, num_classes=4)
