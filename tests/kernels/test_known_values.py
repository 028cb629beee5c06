"""Variables whose values are known: a step sends what is known in the place of what the network predicts."""

import pytest
import torch

from bfn_kernels import binary, circular, continuous, discrete, discretised
from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.support import ON_CPU

on_each = pytest.mark.parametrize("backend", ON_CPU)


@on_each
def test_known_values_are_sent(backend):
    zero = torch.zeros(4, 6)
    mask = torch.arange(6) % 2 == 0
    known = torch.where(mask, zero + 0.5, torch.nan)  # not looked at elsewhere
    sent = {"known": known, "known_mask": mask, "noise": zero, "backend": backend}
    want = torch.where(mask, 0.375, -0.675).expand(4, 6)
    bins = {"sigma_1": 0.1, "num_bins": 10, "parametrisation": "data"}
    z = torch.zeros(4, 6, 3)
    classes = {**sent, "known": torch.where(mask, 2, -100).expand(4, 6), "noise": z}
    for choose in ("sample", "mode", "mean"):
        draw = {"choose": choose, **({"draw_noise": zero} if choose == "sample" else {})}
        new, _ = discretised.update_sample(zero - 0.9, zero - 9, zero, 1.0, 0.5, 3.0, **bins, **draw, **sent)
        torch.testing.assert_close(new, want, rtol=1e-5, atol=1e-6)
        draw |= {"draw_noise": zero + 0.5} if choose == "sample" else {}
        new = discrete.update_sample(z + torch.tensor([9e3, 0.0, 0.0]), z, 1.0, **draw, **classes)
        assert (new.argmax(-1) == torch.where(mask, 2, 0)).all()
    new, _ = continuous.update_sample(zero - 0.9, zero, 1.0, 3.0, **sent)
    torch.testing.assert_close(new, want, rtol=1e-6, atol=0)


@on_each
def test_known_values_keep_their_digits_beside_a_narrow_prediction(backend):
    known, mean = torch.full((1, 2), 0.1234567), torch.zeros(1, 2)
    sure = {"known": known, "known_mask": torch.ones(1, 2, dtype=torch.bool), "noise": mean, "backend": backend}
    narrow, options = mean.bfloat16(), {"choose": "mode", "sigma_1": 0.1, "num_bins": 4}
    torch.testing.assert_close(continuous.update_sample(narrow, mean, 0.0, 1e6, **sure)[0], known)
    new, _ = discretised.update_sample(narrow, narrow, mean, 0.0, 0.5, 1e6, **options, **sure)
    torch.testing.assert_close(new, known)


FIVE = {"schedule": VonMisesAccuracy([0.5, 1.0, 2.0, 8.0, 64.0])}
FLOWS = {  # a call, and its results for the known numbers 0 and 1
    "continuous": (lambda x, **of: (continuous.flow_sample(x.float(), 0.3, sigma_1=0.1, **of),), ([0.0, 1.0],)),
    "probabilities of bits": (lambda x, **of: (binary.flow_sample(x, 0.3, beta_1=3.0, **of),), ([0.0, 1.0],)),
    "bits": (lambda x, **of: (binary.flow_sample(x, 0.3, beta_1=3.0, output="logits", **of),), ([-1e3, 1e3],)),
    "probabilities": (
        lambda x, **of: (discrete.flow_sample(x, 0.3, beta_1=3.0, num_classes=4, **of),),
        ([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]],),
    ),
    "classes": (
        lambda x, **of: (discrete.flow_sample(x, 0.3, beta_1=3.0, num_classes=4, output="logits", **of),),
        ([[750.0, -250.0, -250.0, -250.0], [-250.0, 750.0, -250.0, -250.0]],),
    ),
    "angles": (lambda x, **of: circular.flow_sample(x.float(), 3, **FIVE, **of), ([0.0, 1.0], [75.5, 75.5])),
    "logarithms": (
        lambda x, **of: circular.flow_sample(x.float(), 3, output="log", **FIVE, **of),
        ([0.0, 1.0], [1.0] * 2),
    ),
}


@on_each
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_certain_about_known_data(name, backend):
    """Where they are known, and not padding. The other variables do not change, and x is not read."""
    flow, certain = FLOWS[name]
    x, known = torch.arange(12).view(2, 6) % 2, torch.tensor([0, 1] * 3).flip(0).expand(2, 6)
    known_mask, mask = torch.arange(6) < 4, torch.arange(6) % 3 != 1
    of = {"seed": 3, "mask": mask, "backend": backend}
    read = {"known": torch.where(known_mask & mask, known, 99), "known_mask": known_mask}
    got, plain = (flow(torch.where(known_mask, 99, x), **of, **read), flow(torch.where(mask, x, 99), **of))
    for result, other, numbers in zip(got, plain, certain, strict=True):
        on = (known_mask & mask).expand(2, 6)
        assert torch.equal(result[~on], other[~on])
        torch.testing.assert_close(result[on], torch.tensor(numbers)[known[on]], rtol=1e-6, atol=2e-38)


@on_each
def test_the_gradient_of_a_flow_is_zero_where_data_are_known(backend):
    x = torch.zeros(2, 3, requires_grad=True)
    sure = {"known": torch.ones(2, 3), "known_mask": torch.tensor([True, False, True]), "backend": backend}
    flow = continuous.flow_sample(x, 0.5, sigma_1=0.1, **sure)
    assert torch.equal(torch.autograd.grad(flow.sum(), x)[0] > 0, torch.tensor([False, True, False]).expand(2, 3))


@pytest.mark.parametrize("soft", [True, False])
def test_known_data_are_of_the_kind_of_x(soft):
    classes, shares = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, 4)
    x, known = (shares, classes) if soft else (classes, shares)
    with pytest.raises(ValueError, match=r"known must have shape"):
        discrete.flow_sample(x, 0.5, beta_1=1.0, num_classes=4, known=known, known_mask=torch.ones(2, 3).bool())
    whole = shares.long() if soft else torch.zeros(2, 3)
    with pytest.raises(TypeError, match="known must be"):
        discrete.flow_sample(x, 0.5, beta_1=1.0, num_classes=4, known=whole, known_mask=torch.ones(2, 3).bool())
