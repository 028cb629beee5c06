"""What public functions do besides calling a backend: defaults, types and shapes of results, arguments passed on."""

import pytest
import torch

from bfn_kernels import continuous, discrete, discretised, noise
from tests.kernels.declared import NOISES
from tests.kernels.op_cases import CASES
from tests.kernels.support import ON_CPU, joins, pairs

CLASSES = torch.tensor([[0, 2, 1], [1, 1, 2]])
S = {"sigma_1": 0.1}


def random(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_expectations_where_nothing_is_said():
    """Discrete data have ten draws, and discretised data eight nodes."""
    z, x = random(0, 2, 3, 3), random(1, 2, 3).tanh()
    discrete_loss = lambda **k: discrete.discrete_time_loss(CLASSES, z, 0.5, n_steps=4, beta_1=3.0, **k)  # noqa: E731
    assert torch.equal(discrete_loss(seed=4), discrete_loss(seed=4, n_samples=10))
    discretised_loss = lambda **k: discretised.discrete_time_loss(  # noqa: E731
        x, x, x, x, 0.5, n_steps=4, num_bins=7, **S, **k
    )
    assert torch.equal(discretised_loss(), discretised_loss(quadrature=8))


@pytest.mark.parametrize("backend", ON_CPU)
def test_as_many_nodes_as_there_may_be(backend):
    """128 nodes are allowed; for a smooth integrand their sum equals that of half as many to all digits."""
    x, z = torch.tensor([[0, 1]]), random(0, 1, 2, 2, dtype=torch.float64)
    of = {"beta_1": 1.0, "n_steps": 8, "receiver": "factorised", "backend": backend}
    most, half = (discrete.discrete_time_loss(x, z, 0.5, quadrature=n, **of) for n in (128, 64))
    torch.testing.assert_close(most, half, rtol=1e-9, atol=0)
    x, of = random(1, 1, 2, dtype=torch.float64).tanh(), {"n_steps": 8, "num_bins": 4, "backend": backend, **S}
    most, half = (discretised.discrete_time_loss(x, x, x, x, 0.5, quadrature=n, **of) for n in (128, 64))
    torch.testing.assert_close(most, half, rtol=1e-6, atol=0)


ROW, TABLE = torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
PRECISIONS = [  # precision, α, and ρ + α: as finely as either has it, in ρ's type, and float32 where ρ is a number
    (1.0, 2, 3.0),
    (2, ROW, ROW + 2),
    (2.0, ROW.double(), ROW + 2),
    (ROW, 2.0, ROW + 2),
    (ROW.double(), 2.0, ROW.double() + 2),
    (ROW, ROW, 2 * ROW),
    (ROW.double(), ROW, 2 * ROW.double()),
    (ROW, ROW.double(), 2 * ROW),
    (ROW, TABLE, ROW[:, None] + TABLE),
    (TABLE.double(), ROW, (ROW[:, None] + TABLE).double()),
    (torch.tensor(2.0), ROW, ROW + 2),
    (ROW[:, None], 2.0, ROW[:, None] + 2),
]


@pytest.mark.parametrize(("precision", "alpha", "want"), PRECISIONS)
def test_shape_and_type_of_the_precision(precision, alpha, want):
    x = random(0, 2, 3)
    found = [
        continuous.bayesian_update(x, precision, x, alpha)[1],
        continuous.update_sample(x, x, precision, alpha, seed=1)[1],
        discretised.update_sample(x, x, x, precision, 0.5, alpha, num_bins=4, seed=1, **S)[1],
    ]
    for got in found:
        assert type(got) is type(want)
        if isinstance(want, float):
            assert got == want
        else:
            assert got.dtype == want.dtype and torch.equal(got, want)


@pytest.mark.parametrize("parametrisation", continuous.PARAMETRISATIONS)
@pytest.mark.parametrize("backend", ON_CPU)
def test_reconstruction_by_bins_has_the_clip_and_the_mask(parametrisation, backend):
    x, mean = random(0, 4, 3).tanh() / 4, random(1, 4, 3).tanh()
    prediction = random(2, 4, 3) * (0.5 if parametrisation == "data" else 5)
    mask = torch.arange(12).reshape(4, 3) % 3 != 1
    of = {"num_bins": 16, "parametrisation": parametrisation, "backend": backend, **S}
    for clip in ((-0.25, 0.5), None):
        each = continuous.reconstruction_loss(x, prediction, mean, clip=clip, reduction="none", **of)
        if parametrisation == "data":
            x_hat = prediction
        else:
            x_hat = continuous.predict_data(prediction, mean, 1.0, clip=None, backend=backend, **S)
        beyond = (x_hat < -0.25) | (x_hat > 0.5)
        assert 2 < beyond.sum() < 10
        clipped = x_hat if clip is None else x_hat.clamp(*clip)
        std = torch.full_like(x, 0.1)
        want = -discretised.log_prob(x, clipped, std, num_bins=16, backend=backend)
        torch.testing.assert_close(each, want, rtol=1e-5, atol=1e-5)
        for reduction, value in [("none", want * mask), ("mean", want[mask].mean()), ("batch", (want * mask).sum(1))]:
            hidden = torch.where(mask, x, torch.nan)
            masked = continuous.reconstruction_loss(
                hidden, prediction, mean, clip=clip, mask=mask, reduction=reduction, **of
            )
            torch.testing.assert_close(masked, value, rtol=1e-5, atol=1e-5)


UNDRAWN = [c for c in CASES if c.options.get("choose") in ("mode", "mean") and "noise" in c.fields and not c.long]


@pytest.mark.parametrize("case", UNDRAWN, ids=str)
def test_what_is_not_drawn_needs_no_seed(case):
    """If the sender's noise is passed, a mode or a mean draws nothing from torch's generator, and takes no seed."""
    inputs, before = case.inputs((2, 3), torch.float32), torch.get_rng_state()
    case(inputs)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="seed must be None where noise is given, got 1"):
        case(inputs, seed=1)


@pytest.mark.parametrize("seed", [7, -1, 2**40 + 3])
def test_a_folded_seed_has_64_bits(seed):
    """The seed has the first two words of a group as its low and high half."""
    for step in (0, 1, 2**33 + 1):
        w0, w1, *_ = noise.philox(torch.tensor(seed), torch.tensor(step), noise.FOLD_IN).tolist()
        assert noise.fold_in(seed, step) % 2**64 == w0 + (w1 << 32)
    assert noise.fold_in(7, 3) == 2891134794951100292  # must not change, since saved runs depend on it


def test_types_where_nothing_is_said(monkeypatch):
    """A state keeps its type even if the message is wider; messages have torch's default type."""
    z = random(0, 2, 3, 3, dtype=torch.bfloat16)
    updated = discrete.bayesian_update(z, random(1, 2, 3, 3))
    assert updated.dtype == torch.bfloat16
    assert torch.equal(updated, (z.float() + random(1, 2, 3, 3)).bfloat16())
    assert discrete.bayesian_update(z.double(), z).dtype == torch.float64
    assert discrete.theta(z).dtype == discrete.theta_logits(z.float().softmax(-1).bfloat16()).dtype == torch.bfloat16
    for default in (torch.float64, torch.float32, torch.bfloat16):
        torch.set_default_dtype(default)
        try:
            flow = discrete.flow_sample(CLASSES, 0.5, num_classes=3, beta_1=1.0, seed=1)
            message = discrete.sender_sample(CLASSES, 0.5, num_classes=3, seed=1)
        finally:
            torch.set_default_dtype(torch.float32)
        asked = discrete.sender_sample(CLASSES, 0.5, num_classes=3, seed=1, dtype=default)
        assert flow.dtype == message.dtype == default and torch.equal(message, asked)


@pytest.mark.parametrize("backend", ON_CPU)
def test_before_anything_was_received_nothing_is_looked_at(backend):
    """t < 1e-6: the data prediction is 0, the output distribution N(0, 1), whatever mean and network say."""
    nan = torch.full((2, 3), torch.nan)
    x, t, of = random(0, 2, 3).tanh(), torch.tensor([0.0, 9e-7]), {"backend": backend, **S}
    zero = torch.zeros_like(x)
    prediction, mean = nan.clone().requires_grad_(), nan.clone().requires_grad_()
    x_hat = continuous.predict_data(prediction, mean, t, **of)
    assert torch.equal(x_hat.detach(), zero)
    assert all(torch.equal(g, zero) for g in torch.autograd.grad(x_hat.sum(), (prediction, mean)))
    loss = continuous.continuous_time_loss(x, prediction, mean, t, reduction="none", **of)
    want = continuous.continuous_time_loss(x, zero, None, t, parametrisation="data", reduction="none", **of)
    torch.testing.assert_close(loss, want, rtol=1e-6, atol=0)
    assert all(torch.equal(g, zero) for g in torch.autograd.grad(loss.sum(), (prediction, mean)))
    log_std = nan.clone().requires_grad_()
    of |= {"num_bins": 6, "reduction": "none"}
    loss = discretised.continuous_time_loss(x, prediction, log_std, nan, t, **of)
    want = discretised.continuous_time_loss(x, zero, zero, None, t, parametrisation="data", **of)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(g, zero) for g in torch.autograd.grad(loss.sum(), (prediction, log_std)))


@pytest.mark.parametrize("parametrisation", continuous.PARAMETRISATIONS)
@pytest.mark.parametrize("known", [None, random(5, 2, 3)], ids=["all predicted", "some known"])
@pytest.mark.parametrize("backend", ON_CPU)
def test_a_step_on_a_prediction_is_a_step_on_what_it_stands_for(backend, known, parametrisation):
    """The default clip binds some of these predictions. Gradients too: that of the mean goes both ways."""
    x, mean = random(0, 2, 3).requires_grad_(), random(1, 2, 3).requires_grad_()
    t, of = torch.tensor([0.3, 0.0]), {"noise": random(2, 2, 3), "backend": backend}
    if known is not None:
        of |= {"known": known, "known_mask": torch.tensor([[True, False, True]])}
    predicted = continuous.predict_data(x, mean, t, backend=backend, **S)
    x_hat = predicted if parametrisation == "noise" else x.clamp(-1, 1)
    want, _ = continuous.update_sample(x_hat, mean, 2.0, 0.5, **of)
    got, precision = continuous.update_sample(x, mean, 2.0, 0.5, t=t, parametrisation=parametrisation, **S, **of)
    assert precision == 2.5
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    w = random(3, 2, 3)
    for a, b in zip(*(torch.autograd.grad((w * v).sum(), (x, mean)) for v in (got, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mixed", [False, True], ids=["one normal", "mixture"])
@pytest.mark.parametrize("backend", ON_CPU)
def test_the_output_distribution_is_what_a_step_sends(backend, mixed):
    """`mode` and `expected_value` of it are the values that steps without noise on a mean of precision 0 arrive at."""
    each = (2, 3, 4) if mixed else (2, 3)
    predictions, mean = (random(0, *each), random(1, *each)), random(2, 2, 3).tanh()
    t, of = torch.tensor([0.7, 1e-7]), {"mixture_logits": random(3, *each) if mixed else None, "num_bins": 16}
    normal = discretised.output_distribution(*predictions, mean, t, backend=backend, **S)
    silent = {"alpha": 1.0, "noise": torch.zeros(2, 3), "backend": backend, **S}
    for choose, of_normal in (("mode", discretised.mode), ("mean", discretised.expected_value)):
        want, _ = discretised.update_sample(*predictions, mean, 0.0, t, choose=choose, **silent, **of)
        torch.testing.assert_close(of_normal(*normal, backend=backend, **of), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ON_CPU)
def test_the_limits_of_an_output_distribution(backend, dtype):
    """Each std to its own last digits, however small: it is not rounded to 16 bits."""
    log_std = torch.tensor([[-20.0, -6.9, -6.0, -0.5, 2.3, 2.5, 11.0]], dtype=dtype)
    for t, parametrisation in ((0.6, "noise"), (0.6, "data"), (1e-7, "noise")):
        of = {"parametrisation": parametrisation, "backend": backend, **S}
        _, std = discretised.output_distribution(log_std, log_std, log_std, t, **of)
        variance = 0.1 ** (2 * t) if parametrisation == "noise" else 0.5
        want = (log_std.double().clamp(-10, 10).exp() * (variance / (1 - variance)) ** 0.5).clamp(1e-3, 10)
        want = torch.ones_like(want) if t < 1e-6 and parametrisation == "noise" else want
        assert std.dtype == torch.float32
        torch.testing.assert_close(std.double(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("parametrisation", continuous.PARAMETRISATIONS)
@pytest.mark.parametrize("mixed", [False, True], ids=["one normal", "mixture"])
def test_reconstruction_of_discretised_data_is_at_the_end_of_time(parametrisation, mixed):
    """−log_prob under the network's normal at t = 1 (105, 106), by the formulas themselves."""
    each = (2, 3, 4) if mixed else (2, 3)
    x, mean, pred_mean, pred_log_std = (
        random(0, 2, 3).tanh(),
        random(1, 2, 3).tanh(),
        random(2, *each),
        random(3, *each),
    )
    logits = random(4, *each) if mixed else None
    mu, std = pred_mean, pred_log_std.exp()
    if parametrisation == "noise":
        gamma = 1 - 0.1**2
        b = ((1 - gamma) / gamma) ** 0.5
        mu, std = (mean.unsqueeze(-1) if mixed else mean) / gamma - b * pred_mean, b * std
    got = discretised.reconstruction_loss(
        x,
        pred_mean,
        pred_log_std,
        mean,
        num_bins=6,
        mixture_logits=logits,
        parametrisation=parametrisation,
        reduction="none",
        **S,
    )
    want = -discretised.log_prob(x, mu, std, num_bins=6, mixture_logits=logits)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


SEVERAL = [case for case in CASES if len({*NOISES} & {*case.fields}) > 1 and not case.long]


def made(case, shape, key) -> dict:
    """The noises that a seed makes for a call that has several."""
    value, uniform = noise.normal(shape, key, noise.OUTPUT), noise.class_uniform(shape, key)
    sender = noise.class_normal((*shape, case.num_classes), key) if case.num_classes else noise.normal(shape, key)
    first = value if case.op == "discretised.sample" else sender
    draw = value if case.family == "discretised" else uniform
    every = {"noise": first, "draw_noise": draw, "component_noise": noise.class_uniform(shape, key, noise.COMPONENT)}
    if case.family == "circular":
        every = {"noise": noise.angle_uniforms(shape, key, 17), "concentration_noise": sender}
    return {name: numbers for name, numbers in every.items() if name in case.fields}


@pytest.mark.parametrize("case", SEVERAL, ids=str)
def test_explicit_noise_stands_for_that_of_the_seed(case):
    """If one of several noises is passed, the seed makes the others as it would if none was passed."""
    inputs = {name: value for name, value in case.inputs((2, 3), torch.float32).items() if name not in NOISES}
    noises = made(case, (2, 3), torch.tensor(11))
    want = case(inputs, "reference", seed=11)
    for one in noises:
        others = {name: value for name, value in noises.items() if name != one}
        assert torch.equal(case(inputs | {one: noises[one]}, "reference", seed=11), want)
        assert torch.equal(case(inputs | others, "reference", seed=11), want)
    assert torch.equal(case(inputs | noises, "reference"), want)
    with pytest.raises(ValueError, match="seed must be None where"):
        case(inputs | noises, "reference", seed=11)


GIVEN = (*NOISES, "known")


@pairs(ON_CPU, lambda case: joins(case) and not case.long and any(name in case.fields for name in GIVEN))
def test_noise_and_known_values_are_of_the_type_of_the_arithmetic(case, backend):
    """Passed in float64, each gives to the bit what its numbers in float32 give."""
    inputs = case.inputs((2, 3), torch.float32)
    want = case(inputs, backend)
    for name in GIVEN:
        value = inputs.get(name)
        if torch.is_tensor(value) and value.is_floating_point():
            got = case(inputs | {name: value.double() * (1 + 1e-9)}, backend)
            assert got.dtype == want.dtype and torch.equal(got, want), name
