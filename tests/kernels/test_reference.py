"""The reference, with which other tests compare the backends, against sums as the paper writes them, in float64. The
other backends are compared with these sums too."""

import math

import pytest
import torch

from bfn_kernels import discrete, discretised
from bfn_kernels.discretised import reference
from tests.kernels.support import ON_CPU


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("kind", "num_classes"),
    [*((torch.uint8, k) for k in (255, 256, 300)), *((kind, 300) for kind in (torch.int32, torch.int16, torch.int8))],
    ids=str,
)
@pytest.mark.parametrize("backend", ON_CPU)
def test_classes_of_any_integer_type(backend, kind, num_classes):
    """uint8 cannot hold the number of classes, with which its values are compared."""
    x, z = torch.tensor([[0, 7, 254, 128]]).clamp(max=torch.iinfo(kind).max), torch.randn(1, 4, num_classes)
    noise, mask, b = torch.randn(1, 4, num_classes), torch.tensor([[True, True, True, False]]), {"backend": backend}
    draw = {"known_mask": mask, "noise": noise, "draw_noise": torch.full((1, 4), 0.3), **b}
    for function in (
        lambda x: discrete.flow_sample(x, 0.5, num_classes=num_classes, beta_1=0.01, noise=noise, **b),
        lambda x: discrete.sender_sample(x, 0.5, num_classes=num_classes, noise=noise, **b),
        lambda x: discrete.update_sample(z, z, 0.5, known=x, **draw),
        lambda x: discrete.continuous_time_loss(x, z, 0.5, beta_1=0.01, mask=mask, **b),
        lambda x: discrete.reconstruction_loss(x, z, **b),
        lambda x: discrete.discrete_time_loss(x, z, 0.5, beta_1=0.01, n_steps=4, n_samples=1, noise=noise[None], **b),
    ):
        assert torch.equal(function(x.to(kind)), function(x))
    if num_classes == 255 and backend == "reference":
        with pytest.raises(IndexError, match=r"x must hold classes in \[0, 255\), got 255"):
            discrete.reconstruction_loss(torch.tensor([[255] * 4], dtype=torch.uint8), z)


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("num_classes", [2, 27, 1000])
@pytest.mark.parametrize("backend", ON_CPU)
def test_gradient_of_the_discrete_loss(backend, num_classes, scale):
    """‖e_x − p‖² in float32, with p_x near 0 and near 1: each row's gradient within 1e-5 of its largest number."""
    z = scale * torch.randn(64, num_classes)
    x = torch.where(torch.arange(64) % 2 == 0, z.argmax(-1), torch.randint(num_classes, (64,)))
    each = torch.linspace(0.5, 2, 64)

    def grad(loss, z):
        z = z.requires_grad_()
        return torch.autograd.grad((each * loss(z)).sum(), z)[0].double()

    options = {"beta_1": 1 / num_classes, "reduction": "none", "backend": backend}  # the weight is then t
    got = grad(lambda z: discrete.continuous_time_loss(x, z, torch.ones(64), **options), z.clone())
    p = z.double().softmax(-1)
    difference = p - torch.nn.functional.one_hot(x, num_classes)
    want = 2 * each.double().unsqueeze(-1) * p * (difference - (p * difference).sum(-1, keepdim=True))
    largest = want.abs().amax(-1)
    seen = largest > 1e-8  # below, float64 has too few digits of 1 − p
    assert seen.sum() > 16
    off = (got - want).abs().amax(-1)
    assert (off / largest)[seen].max() < 1e-5


def test_mode_of_a_mixture():
    """The mode does not depend on how many bins are compared at a time."""
    num_bins, shape = 300, (40, 3, 2)
    mean, std, logits = torch.randn(shape) / 2, torch.rand(shape) + 0.01, torch.randn(shape)
    mean[0], logits[1, :, 1] = 3.0, -100.0
    edges = 2 * torch.arange(num_bins + 1, dtype=torch.float64) / num_bins - 1
    edges[0], edges[-1] = -math.inf, math.inf
    z = (edges - mean.double().unsqueeze(-1)) / std.double().unsqueeze(-1)
    p = (logits.double().softmax(-1).unsqueeze(-1) * (torch.erfc(-z * math.sqrt(0.5)) / 2).diff()).sum(-2)
    best = discretised.mode(mean, std, mixture_logits=logits, num_bins=num_bins, backend="reference")
    chosen = ((best.double() + 1) / 2 * num_bins).floor().long()
    assert (p.gather(-1, chosen.unsqueeze(-1)).squeeze(-1) >= p.amax(-1) * (1 - 1e-6)).all()
    assert len(chosen.unique()) > 20


def test_mode_of_a_mixture_is_found_by_few_sums_of_bounded_size(monkeypatch):
    """One bin at a time took ten seconds for a single variable; all bins at once would take any amount of memory."""
    sizes = []

    def counted(index, normal, *more):
        log_p = log_prob(index, normal, *more)
        sizes.append(log_p.numel() * normal.mean.shape[-1])
        return log_p

    log_prob = reference._log_prob
    monkeypatch.setattr(reference, "_log_prob", counted)
    for count, most_calls, most_numbers in ((1, 1, 4096 * 3), (60, 4, 1 << 18)):
        sizes.clear()
        mean = torch.randn(count, 3)
        best = reference.mode(mean, torch.full((count, 3), 0.1), torch.zeros(count, 3), 4096)
        assert best.shape == (count,)
        assert 0 < len(sizes) <= most_calls and max(sizes) <= most_numbers
