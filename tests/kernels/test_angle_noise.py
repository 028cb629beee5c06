"""Explicit noise of angles: uniforms that propose an angle and accept it, in place of a seed."""

import pytest
import torch

from bfn_kernels import circular, continuous, noise
from tests.kernels.support import ON_CPU
from tests.kernels.test_circular import TEN

on_each = pytest.mark.parametrize("backend", ON_CPU)
SHAPED = r"noise must have shape \(%s, 2, 2, 3\), .*got \(%s"


@on_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_uniforms_of_a_seed_draw_what_the_seed_draws(dtype, backend):
    """To the bit, since equal numbers take the same path. Fewer proposals give the same angles but where they are not
    enough."""
    x, seed = torch.full((1, 3000), 0.3, dtype=dtype), torch.tensor(5)
    normals = continuous.sender_sample(torch.zeros_like(x), 1.0, seed=seed, backend=backend)
    calls = (
        lambda **of: circular.sender_sample(x, torch.tensor([2.0]), backend=backend, **of),
        lambda **of: circular.update_sample(x, x, x + 9, 1e3, backend=backend, **of)[0],
        lambda **of: circular.flow_sample(x, 4, schedule=TEN, backend=backend, **of)[0],
    )
    for call in calls:
        own = {"concentration_noise": normals} if call is calls[2] else {}
        want = call(seed=seed)
        assert torch.equal(call(noise=noise.angle_uniforms(x.shape, seed, 17), **own), want)
        shares = [(call(noise=noise.angle_uniforms(x.shape, seed, n), **own) == want).double().mean() for n in (1, 2)]
        assert 0.96 < shares[0] < 0.99 < 0.998 < shares[1] < 1


@on_each
def test_uniforms_at_the_ends_of_their_range_draw_angles(backend):
    """A proposal of 0 is the farthest one, a proposal of ±1 is the mean, and NaN is not hidden."""
    signed = torch.tensor([0.0, -0.0, 1e-30, 2**-32, -(2**-32), 1.0, -1.0, torch.nan])
    for concentration in (0.0, 1.0, 1e6):
        given = torch.stack([signed, torch.ones(8)])[None]
        y = circular.sender_sample(torch.zeros(8), concentration, noise=given, backend=backend)
        assert y[-1].isnan() and torch.equal(y[5:7], torch.zeros(2))
        assert torch.equal(y[:4].abs(), y[4].abs().expand(4)) and y[4].abs() > 3 / max(1, concentration) ** 0.5


WRONG = [
    (lambda x: x, ValueError, SHAPED % (2, r"2, 3\)")),
    (lambda x: x.new_empty(0, 2, 2, 3), ValueError, SHAPED % (1, "0, 2")),
    (lambda x: x.sum(), ValueError, SHAPED % (1, r"\)")),
    (lambda x: [x], TypeError, "noise must be a tensor, got list"),
]


@pytest.mark.parametrize(("made", "kind", "words"), WRONG)
def test_wrong_uniforms_are_refused(made, kind, words):
    x = torch.zeros(2, 3)
    with pytest.raises(kind, match=words):
        circular.sender_sample(x, 1.0, noise=made(x))
