"""Losses of a user's own by chunks of tokens, against the same loss of all logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from bfn_kernels import vocabulary
from tests.kernels.test_tile_memory import large

K, WIDTH, TOKENS = 67, 5, (3, 7)


def uniform_nll(logits, x, x_t, alpha):
    """A part of the bound of Duo (arXiv 2506.10892), which sums a function of all probabilities."""
    mixed = K * alpha.unsqueeze(-1) * logits.softmax(-1) + 1 - alpha.unsqueeze(-1)
    of_x, of_x_t = (mixed.gather(-1, index.unsqueeze(-1)).squeeze(-1).log() for index in (x, x_t))
    return mixed.log().mean(-1) - of_x_t + (x != x_t) * (of_x_t - of_x)


def inputs(dtype=torch.float64, tokens=TOKENS):
    g = torch.Generator().manual_seed(1)
    head = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((*tokens, WIDTH), (K, WIDTH), (K,))]
    x, x_t = torch.randint(K, (2, *tokens), generator=g)
    return [each.to(dtype).requires_grad_() for each in head], (x, x_t, torch.rand(tokens, generator=g).to(dtype))


def stored(head, rows, reduction="mean"):
    """The loss of all logits, and its gradients."""
    loss = uniform_nll(linear(*head), *rows)
    loss = loss.mean() if reduction == "mean" else loss.sum()
    return loss, *torch.autograd.grad(loss, head)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunk_size", [1, 5, 21, 100, None])
def test_a_chunk_may_have_any_size(chunk_size, reduction):
    head, rows = inputs()
    loss = vocabulary.loss_by_chunks(uniform_nll, *head, *rows, reduction=reduction, chunk_size=chunk_size)
    for got, want in zip((loss, *torch.autograd.grad(loss, head)), stored(head, rows, reduction), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("wanted", [[True, False, False], [False, True, False], [False, False, True]])
def test_each_gradient_alone_and_twice(wanted):
    """Also of the loss times a number."""
    head, rows = inputs()
    want = stored(head, rows)
    leaves = [leaf.detach().requires_grad_(one) for leaf, one in zip(head, wanted, strict=True)]
    loss = 3 * vocabulary.loss_by_chunks(uniform_nll, *leaves, *rows, chunk_size=4)
    (leaf,) = [leaf for leaf in leaves if leaf.requires_grad]
    for _ in range(2):
        (got,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        torch.testing.assert_close(got, 3 * want[1 + wanted.index(True)])
    with pytest.raises(RuntimeError, match="loss_by_chunks has no second derivative"):
        torch.autograd.grad(loss, leaf, create_graph=True)


def test_no_gradient_no_bias_and_no_tokens():
    (hidden, weight, _), rows = inputs()
    with torch.no_grad():
        got = vocabulary.loss_by_chunks(uniform_nll, hidden, weight, None, *rows, chunk_size=4)
    torch.testing.assert_close(got, uniform_nll(linear(hidden, weight), *rows).mean())
    (hidden, weight, bias), rows = inputs(tokens=(0, 4))
    loss = vocabulary.loss_by_chunks(uniform_nll, hidden, weight, bias, *rows, reduction="sum")
    assert loss == 0 and not torch.autograd.grad(loss, weight)[0].any()


def test_other_types_and_autocast():
    """Results have the types of the arguments, and sums over tokens are in float32."""
    head, rows = inputs(torch.bfloat16)
    want = stored(*([leaf.double() for leaf in each] for each in inputs(torch.bfloat16)[:1]), inputs()[1])
    loss = vocabulary.loss_by_chunks(lambda z, *of: uniform_nll(z.float(), *of), *head, *inputs(torch.float32)[1])
    grads = torch.autograd.grad(loss, head)
    assert loss.dtype == torch.float32 and {grad.dtype for grad in grads} == {torch.bfloat16}
    torch.testing.assert_close(loss.double(), want[0], rtol=0.05, atol=0.05)
    head, rows = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vocabulary.loss_by_chunks(lambda z, *of: uniform_nll(z.float(), *of), *head, *rows, chunk_size=4)
    for got, exact in zip(torch.autograd.grad(loss, head), stored(head, rows)[1:], strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, exact, rtol=0.1, atol=0.1 * exact.abs().max().item())


def test_no_tensor_of_all_logits():
    count, classes, width = 1000, 20_000, 8
    hidden, weight = torch.randn(count, width, requires_grad=True), torch.randn(classes, width)
    loss = lambda z, x: cross_entropy(z, x, reduction="none")  # noqa: E731
    given = hidden, weight, None, torch.arange(count)
    made, result = large(lambda: vocabulary.loss_by_chunks(loss, *given, chunk_size=9))
    assert made == 0 and result.isfinite()


def test_refusals():
    (hidden, weight, bias), (x, x_t, alpha) = inputs()
    learned = alpha.clone().requires_grad_()
    for wrong, message in (
        ((hidden, weight.mT, bias, x), "weight must have shape"),
        ((hidden, weight, bias, x[:2]), r"rows\[0\] must have shape \(3, 7, '\.\.\.'\), got \(2, 7\)"),
        ((hidden, weight, bias, x, learned), r"rows\[1\] requires a gradient, but rows have none"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            vocabulary.loss_by_chunks(uniform_nll, *wrong)
    rows = x, x_t, alpha
    with pytest.raises(ValueError, match=r"^loss must return shape \(21,\), got \(\)"):
        vocabulary.loss_by_chunks(lambda *of: uniform_nll(*of).mean(), hidden, weight, bias, *rows)
    with pytest.raises(ValueError, match=r"^reduction must be one of"):
        vocabulary.loss_by_chunks(uniform_nll, hidden, weight, bias, *rows, reduction="none")
    with pytest.raises(ValueError, match=r"^chunk_size must be"):
        vocabulary.loss_by_chunks(uniform_nll, hidden, weight, bias, *rows, chunk_size=0)
