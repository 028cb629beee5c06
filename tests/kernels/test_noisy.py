"""Embeddings of noisy one-hot vectors: the same vectors in every part, and draws by a factor of WᵀW."""

import pytest
import torch

from bfn_kernels import noise as random
from bfn_kernels import vocabulary
from tests.kernels.support import INTERPRETED
from tests.kernels.test_vocabulary import native, on_cpu, small_tiles, tokens_of  # noqa: F401

K, SCALE, SPREAD = 203, torch.tensor([0.0, 3.0, 9.0]), torch.tensor([[0.0] * 7, [1.0] * 7, [2.0] * 7])
PARTS = {"scale": SCALE, "spread": SPREAD, "seed": 5}
FACTOR = {"scale": 2.0, "spread": 0.5, "output": "linear", "seed": 3}


def vectors(x, num_classes, mask=None):
    """y of `PARTS`, in float64."""
    eps = random.class_normal(torch.Size((*x.shape, num_classes)), torch.tensor(5), dtype=torch.float64)
    e_x = torch.nn.functional.one_hot(x, num_classes)
    y = SCALE.double().view(3, 1, 1) * e_x + SPREAD.double().unsqueeze(-1) * eps
    return y if mask is None else y * mask.unsqueeze(-1)


@native
def test_all_parts_have_the_same_vectors(backend, small_tiles):  # noqa: F811
    """Also where a mask leaves tokens out, and for a seed of a generator."""
    x, _, weight = tokens_of(K)
    for mask in (None, torch.arange(21).view(3, 7) % 4 > 0):
        y, given = vectors(x, K, mask), {**PARTS, "mask": mask, "return_argmax": True, "backend": backend}
        for output, temperature, want in (("softmax", 0.5, (2 * y).softmax(-1)), ("linear", None, y)):
            seen, most = vocabulary.noisy_embedding(x, weight, output=output, temperature=temperature, **given)
            torch.testing.assert_close(seen.double(), want @ weight.double(), rtol=2e-5, atol=2e-4)
            assert torch.equal(most, y.argmax(-1))
    given = PARTS | {"seed": None, "return_argmax": True, "backend": backend}
    seen, most = vocabulary.noisy_embedding(x, weight, generator=torch.Generator().manual_seed(1), **given)
    seed = random.draw_seed(x.device, torch.Generator().manual_seed(1))
    again = vocabulary.noisy_embedding(x, weight, **given | {"seed": seed})
    assert torch.equal(seen, again[0]) and torch.equal(most, again[1])


@on_cpu
def test_a_flow_is_a_case(backend):
    x, _, weight = tokens_of(K)
    want = vocabulary.flow_embedding(x, 0.5, weight, beta_1=0.08, seed=2, backend=backend)
    scale = 0.02 * K  # Kβ, with β = β₁t²
    got = vocabulary.noisy_embedding(x, weight, scale=scale, spread=scale**0.5, seed=2, backend=backend)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@on_cpu
def test_no_tokens_and_the_smallest_classes(backend):
    _, _, weight = tokens_of(K)
    for shape in ((0, 4), (2, 0)):
        given = {"scale": 1.0, "spread": 1.0, "return_argmax": True, "backend": backend}
        for output in ("softmax", "linear"):
            leaf = weight.clone().requires_grad_()
            seen, most = vocabulary.noisy_embedding(torch.zeros(shape, dtype=torch.int8), leaf, output=output, **given)
            assert seen.shape == (*shape, 6) and most.shape == shape and most.dtype == torch.int64
            assert not torch.autograd.grad(seen.sum(), leaf)[0].any()


def test_a_factor_draws_the_same_distribution():
    """Of 20 000 draws, means and covariances lie within five standard errors."""
    weight = tokens_of(K)[2].cumsum(-1)  # columns that are far from orthogonal
    x, count = torch.tensor([7]), 20_000
    factor = vocabulary.noise_factor(weight)
    torch.testing.assert_close(factor.t() @ factor, weight.t() @ weight, rtol=1e-4, atol=1e-4)
    assert torch.equal(factor, factor.triu())
    drawn = vocabulary.noisy_embedding(x.expand(count), weight, factor=factor, **FACTOR).double()
    covariance = 0.25 * (weight.t() @ weight).double()
    deviation = covariance.diagonal().sqrt()
    assert ((drawn.mean(0) - 2 * weight[7]).abs() < 5 * deviation / count**0.5).all()
    errors = (torch.outer(deviation, deviation).square() + covariance.square()).sqrt() / count**0.5
    assert ((drawn.t().cov() - covariance).abs() < 5 * errors).all()


def test_the_gradient_by_a_factor():
    """Of the weight, through its factor, and where noise is explicit."""
    x, _, weight = tokens_of(9, (2, 2), torch.float64)
    noise = torch.randn(2, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def embedded(weight, scale=2.0):
        given = {**FACTOR, "seed": None, "noise": noise, "factor": vocabulary.noise_factor(weight)}
        return vocabulary.noisy_embedding(x, weight, **given | {"scale": scale})

    assert torch.autograd.gradcheck(embedded, weight.requires_grad_())
    torch.testing.assert_close(embedded(weight) - embedded(weight, 0.0), 2 * weight[x])
    assert embedded(weight.detach().bfloat16().float()).dtype == torch.float32


def test_refusals():
    x, _, weight = tokens_of(9)
    factor = vocabulary.noise_factor(weight)
    for wrong, message in (
        ({"scale": -1.0}, r"scale must lie in \[0, inf\], got -1.0"),
        ({"scale": torch.tensor([1.0, -1.0, 0.0])}, "scale must lie in .* got values from -1.0 to 1.0"),
        ({"spread": float("nan")}, "spread must lie in .*, got nan"),
        ({"temperature": 0.0}, "temperature must lie in .*, got 0.0"),
        ({"temperature": float("nan")}, "temperature must lie in .*, got nan"),
        ({"temperature": 1.0, "output": "linear"}, 'temperature must be None with output="linear", got 1.0'),
        ({"output": "mean"}, "output must be one of"),
        ({"factor": factor}, 'factor must be None with output="softmax"'),
        ({"factor": factor, "output": "linear", "return_argmax": True}, "factor must be None with return_argmax"),
        ({"factor": factor[:3], "output": "linear"}, r"factor must have shape \(6, 6\)"),
        ({"num_classes": 9}, "process_group and num_classes must be given together"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            vocabulary.noisy_embedding(x, weight, **{"scale": 1.0, "spread": 1.0} | wrong)
    for given in ({}, {"output": "linear"}, {"output": "linear", "factor": factor}):
        with pytest.raises(IndexError, match="x must hold classes"):
            vocabulary.noisy_embedding(x + 1, weight, scale=1.0, spread=1.0, **given)
    with pytest.raises(ValueError, match=r"^weight must have at least as many rows as columns, got \(5, 6\)"):
        vocabulary.noise_factor(weight[:5])
    for share in torch.linspace(0.1, 1, 20):  # rounding may leave a pivot above 0
        dependent = torch.stack([*weight.t()[:5], share * weight[:, 1] + weight[:, 3]], -1)
        with pytest.raises(ValueError, match=r"^weight must have linearly independent columns"):
            vocabulary.noise_factor(dependent)


@on_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_nucleus_is_the_smallest_set_that_reaches_top_p(dtype, backend, small_tiles):  # noqa: F811
    """Classes are drawn in proportion to their probabilities, and none outside is drawn."""
    g = torch.Generator().manual_seed(1)
    k, count = (67 if INTERPRETED else 1003), 40
    hidden, weight = (torch.randn(n, 6, generator=g, dtype=torch.float64).to(dtype) for n in (count, k))
    p, classes = (hidden @ weight.t()).double().softmax(-1).sort(descending=True)
    uniforms = torch.rand(count, generator=g, dtype=torch.float64).to(dtype)
    for top_p in (1e-6, 0.3, 0.9, 1.0):
        drawn = vocabulary.sample(hidden, weight, top_p=top_p, draw_noise=uniforms, backend=backend)
        inside = p.cumsum(-1) - p < top_p
        nucleus = torch.zeros_like(inside).scatter_(-1, classes, inside)
        weights = torch.zeros_like(p).scatter_(-1, classes, p).where(nucleus, 0)
        want = random.draw_class(weights / weights.sum(-1, keepdim=True), uniforms.double())
        assert nucleus.gather(-1, drawn.unsqueeze(-1)).all()
        assert (drawn == want).sum() >= count - 1  # the uniform of one may be within rounding of a boundary
    spoilt = weight.index_fill(0, torch.tensor([3]), torch.nan)
    assert (vocabulary.sample(hidden, spoilt, top_p=0.5, seed=1, backend=backend) == -1).all()


@on_cpu
def test_equal_classes_are_in_the_nucleus_together(backend):
    uniforms = torch.linspace(0.01, 1, 50)
    hidden, weight = torch.ones(50, 1), torch.tensor([[-3.0], [-0.0], [0.0], [-3.0]])
    drawn = vocabulary.sample(hidden, weight, top_p=0.1, draw_noise=uniforms, backend=backend)
    assert sorted(set(drawn.tolist())) == [1, 2]


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.5, float("nan")])
def test_a_top_p_that_is_no_share_is_refused(top_p):
    state, (_, hidden, weight) = torch.zeros(3, 7, 9), tokens_of(9)
    for call in (
        lambda **more: vocabulary.sample(hidden, weight, **more),
        lambda **more: vocabulary.update_sample(state, hidden, weight, None, 0.1, **more),
        lambda **more: vocabulary.solver_step(
            state, hidden, weight, None, 0.1, 0.2, beta_1=1.0, choose="sample", **more
        ),
    ):
        with pytest.raises(ValueError, match=r"^top_p must "):
            call(top_p=top_p)
    with pytest.raises(ValueError, match='top_p must be 1 with choose="mode"'):
        vocabulary.update_sample(state, hidden, weight, None, 0.1, choose="mode", top_p=0.5)
