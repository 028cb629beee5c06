"""No op of a large vocabulary makes a tensor larger than a tile, but for its results and gradients."""

import pytest
import torch
from torch import Tensor

from bfn_kernels import vocabulary
from bfn_kernels.vocabulary.tiles import NUMBERS
from tests.kernels.support import INTERPRETED, NATIVE, PTX

pytestmark = pytest.mark.skipif(
    INTERPRETED or bool(PTX) or "cpu" not in NATIVE, reason="tiles of other devices are larger"
)
K, COUNT, WIDTH = 20_000, 60, 64  # a tile of all classes and of as many tokens as WIDTH would be the logits
BETA, EACH = {"beta_1": 16 / K}, {"reduction": "none"}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


X, HEAD = torch.arange(COUNT), (normal(COUNT, WIDTH), normal(K, WIDTH), normal(K))
T, SCALE = torch.full((COUNT,), 0.4), torch.ones(COUNT)
FOLLOWS = {"flow_scale": SCALE, "flow_seed": 1, **BETA}
SECOND = {"t_previous": 0.2, "previous": HEAD[0].flip(0), "rule": "ode2", **BETA}


def embedded(hidden, weight, bias):
    return vocabulary.flow_embedding(X, T, weight, seed=1, **BETA) + 0 * hidden + 0 * bias.sum()


def noisy(**more):
    def embedded(hidden, weight, bias):
        seen, _ = vocabulary.noisy_embedding(X, weight, scale=4.0, spread=T, seed=1, return_argmax=True, **more)
        return seen + 0 * hidden + 0 * bias.sum()

    return embedded


def of_steps(**more):
    def loss(*head):
        return vocabulary.discrete_time_loss(X, *head, step=2, n_steps=4, n_samples=2, seed=1, **EACH, **more)

    return loss


WITH_GRADIENTS = {
    "flow_embedding": embedded,
    "noisy_embedding": noisy(temperature=0.5),
    "noisy_embedding that is linear": noisy(output="linear"),
    "continuous_time_loss": lambda *head: vocabulary.continuous_time_loss(X, *head, T, **BETA, **EACH),
    "continuous_time_loss that follows": lambda *head: vocabulary.continuous_time_loss(X, *head, T, **FOLLOWS, **EACH),
    "reconstruction_loss": lambda *head: vocabulary.reconstruction_loss(X, *head, **EACH),
    "reconstruction_loss that follows": lambda *head: vocabulary.reconstruction_loss(X, *head, **FOLLOWS, **EACH),
    "discrete_time_loss": of_steps(**BETA),
    "discrete_time_loss that follows": of_steps(**FOLLOWS),
}
STEPS = {
    f"{op.__name__} by {choose}{note}": (op, {"choose": choose, **more, **following})
    for op, more in (
        (vocabulary.update_sample, {"alpha": 1e-4}),
        (vocabulary.solver_step, {"t": 0.4, "t_next": 0.6, **BETA}),
        (vocabulary.solver_step, {"t": 0.4, "t_next": 0.6, **SECOND}),
    )
    for choose in ("sample", "mode", "mean")
    for note, following in (("", {}), (" that follows", {"flow_scale": SCALE}))
    if not (choose != "mean" and "previous" in more) and not (following and "previous" in more)
}


def large(call) -> tuple[int, object]:
    """How many tensors a call makes that are larger than a tile in any type, and what it returns."""
    with torch.profiler.profile(profile_memory=True) as profile:
        result = call()
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return sum(size > 2.2 * NUMBERS["cpu"] * 4 for size in sizes), result  # a tile in float64 is twice as large


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_a_loss_makes_no_tensor_of_all_logits(name):
    leaves = [each.clone().requires_grad_() for each in HEAD]
    count, result = large(lambda: WITH_GRADIENTS[name](*leaves))
    assert count == 0
    count, _ = large(lambda: torch.autograd.grad(result.sum(), leaves))
    assert count == 1  # the gradient of the weight


@pytest.mark.parametrize("name", STEPS)
def test_a_step_makes_no_tensor_but_the_state(name):
    op, of = STEPS[name]
    assert large(lambda: op(normal(COUNT, K), *HEAD, seed=1, **of))[0] == 2  # the state before it and after it


@pytest.mark.parametrize("follows", [False, True])
def test_the_mode_of_the_logits_makes_no_tensor_of_them(follows):
    more = {"flow_scale": SCALE, "state": normal(COUNT, K)} if follows else {}
    assert large(lambda: vocabulary.mode(*HEAD, **more))[0] == 0


@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_a_sample_of_the_logits_makes_no_tensor_of_them(top_p):
    assert large(lambda: vocabulary.sample(*HEAD, top_p=top_p, seed=1))[0] == 0
