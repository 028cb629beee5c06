"""The score of a condition, which a step adds to its prediction."""

import pytest
import torch

from bfn_kernels import checks, discrete
from bfn_kernels.solvers import Coefficients
from tests.kernels.support import ON_CPU

on_each = pytest.mark.parametrize("backend", ON_CPU)


@on_each
@pytest.mark.parametrize("num_classes", [2, 3, 40, 600, 4100])
@pytest.mark.parametrize("choose", ["mean", "mode", "sample"])
def test_a_score_is_added_to_the_prediction(choose, num_classes, backend):
    """Clipped, and only where no class is known: the state changes by take·K·score, as in published code."""
    generator = torch.Generator().manual_seed(4)
    z, score = (torch.randn(2, 3, num_classes, generator=generator) for _ in range(2))
    known, known_mask = torch.ones(2, 3, dtype=torch.int64), torch.tensor([[True, False, False], [False, False, True]])
    step = Coefficients(None, torch.tensor([0.2, 0.1]) / num_classes)
    how = {"coefficients": step, "choose": choose, "known": known, "known_mask": known_mask, "backend": backend}
    how |= {"seed": 1} if choose == "sample" else {}
    before, p = torch.empty_like(z), torch.empty_like(z)
    plain = discrete.solver_step(z, z, predicted_out=before, **how)
    unknown = ~known_mask[..., None]
    for clip in (None, 0.3, torch.tensor([0.3, 2.0])):
        limit = torch.full((2,), torch.inf if clip is None else 1.0).mul(1 if clip is None else clip).view(2, 1, 1)
        for s in (score, torch.where(unknown, score, torch.nan)):  # the score of a known class is not used
            got = discrete.solver_step(z, z, score=s, score_clip=clip, predicted_out=p, **how)
            added = torch.where(unknown, score.clamp(-limit, limit), 0)
            torch.testing.assert_close(p - before, added, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(got - plain, num_classes * step.take.view(2, 1, 1) * added, rtol=1e-5, atol=2e-6)


@on_each
@pytest.mark.parametrize("num_classes", [3, 40])
def test_a_clip_that_is_no_number_makes_the_prediction_none(num_classes, backend, monkeypatch):
    """Where a negative clip cannot be refused, it becomes NaN. A known class is sent all the same."""
    monkeypatch.setattr(checks, "shows", lambda x: False)  # as for tensors on a GPU
    z, p = torch.zeros(2, 2, num_classes), torch.empty(2, 2, num_classes)
    known_mask = torch.tensor([[True, False], [True, False]])
    new = discrete.solver_step(
        z, z, coefficients=Coefficients(None, 0.1), known=known_mask.long(), known_mask=known_mask, backend=backend,
        score=z + 0.2, score_clip=torch.tensor([0.3, -1.0]), predicted_out=p,
    )  # fmt: skip
    want = torch.tensor([[False, False], [False, True]])[..., None].expand_as(z)
    assert torch.equal(new.isnan(), want) and torch.equal(p.isnan(), want)


def test_a_score_makes_the_mean_that_of_the_condition():
    """Tweedie's formula. If the network puts out the distribution of a class given the state z, then p plus the
    gradient of ln p(c | z) is the distribution given z and c."""
    prior, told = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.9, 0.2, 0.1]).double()  # told: p(c | class)
    z = torch.tensor([[0.3, -0.2, 0.7]], dtype=torch.float64, requires_grad=True)
    output = prior.log() + z  # since a message multiplies the prior by exp(y)
    (score,) = torch.autograd.grad((output.softmax(-1) * told).sum().log(), z)
    z, output, p = z.detach(), output.detach(), torch.empty(1, 3, dtype=torch.float64)
    discrete.solver_step(output, z, coefficients=Coefficients(None, 0.4), score=score, predicted_out=p)
    torch.testing.assert_close(p, (output + told.log()).softmax(-1))
