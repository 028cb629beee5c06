"""Gradients against finite differences, and what autograd may ask of an op."""

import pytest
import torch
from torch.autograd import forward_ad

from bfn_kernels import backends, continuous, discrete
from bfn_kernels.schedules import VonMisesAccuracy
from tests.kernels.op_cases import CASES
from tests.kernels.support import FIRST, NATIVE, ON_CPU, SHARED, error, evaluate, joins, pairs, scale, ulp, weights_like


def differentiable(case) -> bool:
    return bool(case.diff) and not case.huge


# The table of cases compares all gradients with the reference's, whose code is the same for any count of classes.
@pairs(["reference"], lambda case: differentiable(case) and not case.hard and case.size <= 17)
def test_gradcheck(case, backend):
    check_gradients(case, backend)


@pairs(["cpu"], lambda case: case in FIRST and differentiable(case) and not case.hard)
def test_gradcheck_of_an_operator(case, backend):
    """What gradcheck asks of autograd beside the values, such as gradients that are not there."""
    check_gradients(case, backend)


def check_gradients(case, backend):
    inputs = case.inputs((2, 3), torch.float64, seed=3)
    leaves = [inputs[k].clone().requires_grad_() for k in case.diff]

    def function(*values):
        # NaN behind a mask must stay out of the finite differences too, which would make NaN of it
        return case(inputs | dict(zip(case.diff, values, strict=True)), backend)

    assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-5, rtol=1e-4, nondet_tol=0.0)


@pairs(NATIVE, lambda case: len(case.diff) > 1 and joins(case))
def test_one_gradient_at_a_time(case, backend):
    inputs = case.inputs((3, 5), torch.float32)
    together = evaluate(case, inputs, backend)
    for name in case.diff:
        alone = evaluate(case, inputs, backend, (name,))
        # the wanted gradients may select a variant of an op, whose result may differ by rounding
        off = error(alone["result"], together["result"])
        assert off <= 4 * ulp(torch.float32, scale(together["result"]))
        torch.testing.assert_close(alone[name], together[name], rtol=1e-6, atol=1e-7, equal_nan=True)


@pairs(NATIVE, lambda case: differentiable(case) and joins(case))
def test_the_graph_can_be_used_twice(case, backend):
    """A backward pass may return a saved tensor as a gradient, but only if no other backward pass follows."""
    inputs = case.inputs((3, 5), torch.float32)
    inputs |= {k: inputs[k].requires_grad_() for k in case.diff}
    result, leaves = case(inputs, backend), [inputs[k] for k in case.diff]
    weights = weights_like(result).to(result.dtype)
    first = torch.autograd.grad(result, leaves, weights.clone(), retain_graph=True)  # it may return the clone itself
    copies = [g.clone() for g in first]
    for g in first:
        g.mul_(7)
    overwritten = [g.clone() for g in first]
    scaled = torch.autograd.grad(result, leaves, 2 * weights, retain_graph=True)
    again = torch.autograd.grad(result, leaves, weights)
    for want, got, twice, before, after in zip(copies, again, scaled, overwritten, first, strict=True):
        assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))
        assert torch.equal(after.nan_to_num(7.0), before.nan_to_num(7.0)), "a later backward pass changed it"
        torch.testing.assert_close(twice, 2 * want, rtol=1e-5, atol=1e-30, equal_nan=True)


def second_derivatives(case, inputs, backend):
    inputs = inputs | {k: inputs[k].clone().requires_grad_() for k in case.diff}
    leaves = [inputs[k] for k in case.diff]
    result = case(inputs, backend)
    grads = torch.autograd.grad((result * result).sum(), leaves, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves, allow_unused=True)


@pairs(SHARED, lambda case: differentiable(case) and not case.hard and not case.alike)
def test_a_second_derivative_is_an_error(case, backend):
    """It is an error, or right if the op is linear and its backward pass is an op too; never None or a wrong number."""
    inputs = case.inputs((2, 3), torch.float64)
    if not case.op.endswith(("flow_sample", "sender_sample", "bayesian_update", "update_sample")):
        with pytest.raises(RuntimeError, match="has no second derivative"):
            second_derivatives(case, inputs, backend)
        return
    try:
        got = second_derivatives(case, inputs, backend)
    except RuntimeError as error:
        assert "has no second derivative" in str(error)
        return
    for value, want in zip(got, second_derivatives(case, inputs, "reference"), strict=True):
        assert value is not None
        torch.testing.assert_close(value, want, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, of what it loads for dual numbers
@pairs(SHARED, lambda case: case in FIRST and differentiable(case))  # one case of each op is enough
def test_a_forward_mode_derivative_is_an_error(case, backend):
    inputs = case.inputs((2, 3), torch.float64)
    for name in case.diff:
        with forward_ad.dual_level():
            dual = {name: forward_ad.make_dual(inputs[name], torch.ones_like(inputs[name]))}
            with pytest.raises(RuntimeError, match="forward-mode"):
                case(inputs | dual, backend)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("shape", [(2,), (2, 3)], ids=str)
def test_a_forward_mode_derivative_by_a_time_is_an_error(backend, shape):
    with forward_ad.dual_level():
        t = forward_ad.make_dual(torch.full(shape, 0.5), torch.ones(shape))
        with pytest.raises(ValueError, match="t has a forward-mode tangent, but none is defined for it"):
            continuous.flow_sample(torch.rand(2, 3), t, sigma_1=0.1, backend=backend)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_the_reference_drops_no_tangent():
    """The reference has forward-mode derivatives by data, but not by times. A derivative by a time is an error, and was
    once zero."""
    x, t = torch.rand(2, 3), torch.full((2,), 0.5)
    flow = lambda x, t: continuous.flow_sample(x, t, sigma_1=0.1, noise=torch.ones(2, 3), backend="reference")  # noqa: E731
    _, tangent = torch.func.jvp(lambda x: flow(x, t), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, torch.full_like(x, 1 - 0.1))
    for context in (torch.enable_grad, torch.no_grad):
        with context(), pytest.raises(ValueError, match="t has a forward-mode tangent, but none is defined for it"):
            torch.func.jvp(lambda t: flow(x, t), (t,), (torch.ones_like(t),))


@pytest.mark.parametrize("backend", ON_CPU)
def test_no_tangent_of_a_schedule_is_dropped(backend):
    one, x = torch.tensor(0.1), torch.rand(2, 3)
    for name, call in (
        ("sigma_1", lambda s: continuous.flow_sample(x, 0.5, sigma_1=s, noise=x, backend=backend)),
        ("alphas", lambda a: VonMisesAccuracy(a.view(1)).alphas),
    ):
        with pytest.raises(ValueError, match=f"{name} has a forward-mode tangent, but none is defined for it"):
            torch.func.jvp(call, (one,), (torch.ones_like(one),))


DIFFERENTIABLE: dict[str, set] = {case.op: set() for case in CASES}
for case in CASES:
    DIFFERENTIABLE[case.op] |= set(case.diff)


# Floating-point inputs that an op reads but has no gradient for, apart from noise.
@pairs(SHARED, lambda case: not case.alike)
def test_other_inputs_may_not_require_a_gradient(case, backend):
    inputs = case.inputs((2, 3), torch.float32)
    for name, value in inputs.items():
        if name in case.diff or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        if name == "mean" and name in DIFFERENTIABLE[case.op] and case.options.get("parametrisation") == "data":
            continue  # differentiable in its op, and not read here
        with pytest.raises(ValueError, match=rf"\b{name} requires a gradient, but .*torch\.no_grad\(\)"):
            case(inputs | {name: value.clone().requires_grad_()}, backend)
        with torch.no_grad():
            case(inputs | {name: value.clone().requires_grad_()}, backend)


def test_out_leaves_no_gradient():
    mean = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="mean requires a gradient"):
        continuous.update_sample(torch.zeros(2, 3), mean, 1.0, 1.0, out=torch.empty(2, 3))
    with pytest.raises(ValueError, match="state requires a gradient"):
        discrete.update_sample(torch.zeros(2, 3), mean, 1.0, out=torch.empty(2, 3), choose="mode")
    logits = torch.nn.Linear(3, 3)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"output_logits requires a gradient.* under torch\.no_grad\(\)"):
        discrete.update_sample(logits, torch.zeros(2, 3), 1.0, out=torch.empty(2, 3))


@pairs(ON_CPU, lambda case: case in FIRST and case.diff and "t" in case.fields)
def test_times_written_over_before_the_backward_pass(case, backend):
    """The row scalars were computed from the times before they changed."""
    inputs = case.inputs((4, 3), torch.float32)
    want = evaluate(case, inputs, backend)
    given = inputs | {"t": inputs["t"].clone()} | {name: inputs[name].clone().requires_grad_() for name in case.diff}
    result = case(given, backend)
    given["t"].fill_(0.5)
    leaves = [given[name] for name in case.diff]
    grads = torch.autograd.grad(result, leaves, weights_like(result).to(result.dtype))
    assert all(torch.equal(grad, want[name]) for name, grad in zip(case.diff, grads, strict=True))


@pytest.mark.parametrize("backend", ON_CPU)
def test_a_gradient_is_rounded_to_the_type_of_its_own_tensor(backend):
    mean, y = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True), torch.rand(2, 3, requires_grad=True)
    updated, _ = continuous.bayesian_update(mean, 1.0, y, 0.3, backend=backend)
    by_mean, by_y = torch.autograd.grad(updated.sum(), (mean, y))
    assert torch.equal(by_mean, torch.full_like(mean, 1 / 1.3))
    torch.testing.assert_close(by_y, torch.full_like(y, 0.3 / 1.3), rtol=1e-6, atol=0)


@pytest.mark.skipif("cpu" not in NATIVE, reason="reference and GPUs scale the gradient in the backward pass")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("num_classes", [5, 2048])
@pytest.mark.parametrize("name", ["continuous_time_loss", "reconstruction_loss"])
def test_a_mean_hands_out_the_gradient_that_it_saved(name, num_classes, masked, monkeypatch):
    library = backends.LIBRARIES[backends.NATIVE]
    monkeypatch.setattr(library.common, "scaled_gradient", None)
    monkeypatch.setattr(library.discrete, "loss_backward", None)
    logits, x = torch.randn(3, 4, num_classes, requires_grad=True), torch.arange(12).view(3, 4) % 5
    mask = x < 3 if masked else None
    more = {"t": 0.5, "beta_1": 3.0} if name == "continuous_time_loss" else {}
    by_mean, by_sum = (
        torch.autograd.grad(getattr(discrete, name)(x, logits, reduction=reduction, mask=mask, **more), logits)[0]
        for reduction in ("mean", "sum")
    )
    assert error(by_mean, by_sum / (8 if masked else 12)) <= 4 * ulp(torch.float32, scale(by_mean))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize(
    ("num_classes", "x", "wrong", "gap"),
    [(3, 0, 1, 0.5), (3, 0, 1, 12.0), (27, 26, 3, 60.0), (1100, 2, 1090, 12.0), (4100, 4090, 2, 60.0)],
)
def test_a_likely_wrong_class(num_classes, x, wrong, gap, backend, dtype):
    """Its gradient, p_k (p_k - s + p_x q), has no p_k - s that cancels as p_k goes to 1."""
    z = torch.randn(num_classes, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    z[wrong] = z.max() + gap
    p = z.double().softmax(-1)
    others = torch.arange(num_classes) != x
    q, s = p[others].sum(), p[others].square().sum()
    above = p - s
    above[wrong] = (p * torch.where(others, p[wrong] - p, p[wrong])).sum()
    want = torch.where(others, p * (above + p[x] * q), -p[x] * (q * q + s))
    z.requires_grad_()
    loss = discrete.continuous_time_loss(torch.tensor([x]), z[None], 1.0, beta_1=0.5 / num_classes, backend=backend)
    (grad,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(loss.double(), 0.5 * (q * q + s), rtol=8 * torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(grad.double(), want, rtol=64 * torch.finfo(dtype).eps, atol=0)


def test_every_case_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize(("num_classes", "kept"), [(2048, [2 * 3 * 2048]), (2049, [2 * 3, 2 * 3 * 4, 2 * 3 * 2049])])
def test_a_loss_of_classes_keeps_its_gradient_or_what_makes_it(num_classes, kept):
    """On the CPU, a short row's gradient. For a long row x, four numbers, and the logits, which the network holds."""
    if "cpu" not in NATIVE:
        pytest.skip("the forward passes of the other backends compute no gradient of classes")
    logits, x, found = torch.zeros(2, 3, num_classes, requires_grad=True), torch.zeros(2, 3, dtype=torch.int64), []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: found.append(each.numel()), lambda each: each):
        discrete.reconstruction_loss(x, logits, backend="cpu")
    assert sorted(each for each in found if each > 1) == kept
