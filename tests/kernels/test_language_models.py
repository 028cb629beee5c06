"""The code of docs/guides/language_models.md against formulas that store a number for each class."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "language_models.md"
TRAINING, LIKELIEST, SAMPLING, _ = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def run(code: str) -> dict:
    torch.manual_seed(0)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_a_training_step_has_the_loss_and_the_gradients_of_all_logits():
    """The bound is a divergence: it is not negative, and 0 where the network knows x."""
    names = run(TRAINING)
    head, flat = names["head"], [names[name].flatten() for name in ("x", "x_t", "alpha", "rate")]
    got = [names["loss"], head.weight.grad.clone(), head.bias.grad.clone(), names["embedding"].grad]
    assert got[-1].any()
    each = names["nll"](head(names["hidden"].detach().flatten(0, 1)), *flat)
    want = each.mean(), *torch.autograd.grad(each.mean(), [head.weight, head.bias])
    for value, exact in zip(got, want, strict=False):
        torch.testing.assert_close(value, exact, rtol=1e-4, atol=1e-6)
    x, logits = flat[0], torch.full((64, names["K"]), -40.0, dtype=torch.float64)
    known = names["nll"](logits.scatter(1, x[:, None], 40.0), *flat[:2], *(row.double() for row in flat[2:]))
    assert (each > 0).all() and known.abs().max() < 1e-8


def test_a_sampling_step_draws_from_the_posterior():
    """By Duo's formula of all classes; of 40 000 draws from each of three states."""
    code = SAMPLING.replace("K, WIDTH = 1000, 32", "K, WIDTH = 6, 3")
    names, alpha_t, alpha_s = run(code), 0.3, 0.5
    x_t = torch.tensor([0, 3, 5]).expand(40_000, 3)
    p = names["head"](names["network"](names["embedding"](x_t[0]))).softmax(-1).detach()
    e, kept = torch.nn.functional.one_hot(x_t[0], 6), alpha_t / alpha_s
    mixed = alpha_t * 6 * p * e + (kept - alpha_t) * e + (alpha_s - alpha_t) * p + (1 - kept) * (1 - alpha_s) / 6
    want = mixed / (alpha_t * 6 * (p * e).sum(-1, keepdim=True) + 1 - alpha_t)
    drawn = torch.nn.functional.one_hot(names["step"](x_t, alpha_t, alpha_s), 6).double().mean(0)
    torch.testing.assert_close(want.sum(-1), torch.ones(3))
    assert ((drawn - want).abs() < 5 * (want * (1 - want) / 40_000).sqrt()).all()


def test_the_likeliest_classes_embed_a_token_almost_as_all_classes_do():
    """With the page's small temperature, the likeliest class has nearly all of the probability."""
    names = run(LIKELIEST)
    assert names["seen"].shape == (4, 16, 32) and names["x_t"].shape == (4, 16)
    total = names["p"].sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    p, classes, weight = names["p"], names["classes"], names["embedding"].weight
    torch.testing.assert_close(names["seen"], (p.unsqueeze(-1) * weight[classes]).sum(-2))
