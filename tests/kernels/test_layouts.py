"""A result that has an input's shape also has the strides that torch.empty_like would give it, for any strides of the
input. Compiled code relies on the strides of the fakes, which test_fuzz_layouts.py compares with real results."""

import random

import pytest
import torch

from bfn_kernels import continuous, discrete, discretised
from tests.kernels.support import INTERPRETED, NATIVE

DIMS = 5
LAYOUTS = 1000


def layout(draw: random.Random) -> torch.Tensor:
    """A tensor permuted, sliced and expanded, some of its dimensions of size 1 or 0."""
    dims = draw.randint(1, DIMS)
    sizes = [draw.choice([0, 1, 1, 2, 2, 3, 3] if draw.random() < 0.2 else [1, 2, 3]) for _ in range(dims)]
    x = torch.rand([n + draw.choice([0, 0, 1]) for n in sizes]).permute(draw.sample(range(dims), dims))
    for d in range(dims):
        change = draw.random()
        if change < 0.3 and x.shape[d]:
            x = x.narrow(d, 0, 1).expand([draw.choice([1, 2, 3]) if d == e else n for e, n in enumerate(x.shape)])
        elif change < 0.6:
            x = x[(slice(None),) * d + (slice(draw.choice([0, 1]), None, draw.choice([1, 2])),)]
    return x.permute(draw.sample(range(dims), dims))


def gradients(function):
    def found(x, backend):
        inputs = [x.detach().requires_grad_() for _ in range(function.__code__.co_argcount - 1)]
        return torch.autograd.grad(function(*inputs, backend).sum(), inputs)

    return found


def bins(x, backend):
    std = x + 0.5
    of = {"num_bins": 4, "backend": backend}
    return (
        discretised.expected_value(x, std, **of),
        *discretised.output_distribution(x, x, x, 0.5, sigma_1=0.1, backend=backend),
        discretised.sample(x, std, seed=1, **of),
        discretised.mode(x, std, **of),
        discretised.update_sample(x, x, x, 1.0, 0.5, 1.0, sigma_1=0.1, seed=1, **of)[0],
    )


# What each makes is laid out as its first argument.
OPS = {
    "steps": lambda x, b: (
        continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=1, backend=b),
        continuous.sender_sample(x, 0.5, seed=1, backend=b),
        continuous.bayesian_update(x, 1.0, x, 1.0, backend=b)[0],
        continuous.update_sample(x, x, 1.0, 1.0, seed=1, backend=b)[0],
        continuous.update_sample(x, x, 1.0, 1.0, t=0.5, sigma_1=0.1, seed=1, backend=b)[0],
        continuous.predict_data(x, x, 0.5, sigma_1=0.1, backend=b),
    ),
    "predictions' gradients": gradients(
        lambda x, mean, b: continuous.predict_data(x, mean, 0.5, sigma_1=0.1, backend=b)
    ),
    "losses' gradients": gradients(
        lambda x, prediction, mean, b: continuous.continuous_time_loss(x, prediction, mean, 0.5, sigma_1=0.1, backend=b)
    ),
    "bins": bins,
}  # fmt: skip
CLASS_OPS = {
    "classes": lambda x, b: (discrete.update_sample(x, x, 0.5, seed=1, backend=b),),
    "classes' gradients": gradients(
        lambda x, b: discrete.continuous_time_loss(torch.zeros(x.shape[:-1]).long(), x, 0.5, beta_1=1.0, backend=b)
    ),
}


@pytest.mark.parametrize("backend", NATIVE)
def test_results_are_laid_out_as_torch_would(backend):
    draw = random.Random(0)
    for turn in range(40 if INTERPRETED else LAYOUTS):
        x = layout(draw)
        ops = [*OPS.items(), *(CLASS_OPS.items() if x.dim() > 1 and x.shape[-1] > 1 else ())]
        # all of them where a call takes microseconds, else each in its turn
        for name, op in ops if backend == "cpu" else [ops[turn % len(ops)]]:
            for made in op(x, backend):
                assert made.stride() == torch.empty_like(x).stride(), (name, x.shape, x.stride())


@pytest.mark.skipif("cpu" not in NATIVE, reason="no extension was built")
def test_compiled_code_takes_any_layout():
    """Inductor asserts the strides that its fakes had."""
    draw = random.Random(2)
    expanded = torch.rand(4, 2).t()[:, None, None].expand(2, 3, 2, 4)
    inputs = [expanded, *(layout(draw) for _ in range(3))]
    run = lambda inputs: [continuous.sender_sample(x, 0.5, seed=1, backend="cpu") for x in inputs]  # noqa: E731
    torch._dynamo.reset()
    for got, want in zip(torch.compile(run, fullgraph=True)(inputs), run(inputs), strict=True):
        torch.testing.assert_close(got, want)
        assert got.stride() == want.stride()
