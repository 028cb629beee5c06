"""Samplers: their coefficients, the order of their convergence where the answer is known, and each against others."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from bfn_kernels import binary, continuous, discrete, discretised, solvers
from bfn_kernels.schedules import LogarithmicAccuracy, QuadraticAccuracy
from bfn_kernels.solvers import RULES, Coefficients, coefficients, start_variance
from tests.kernels.op_cases import CASES
from tests.kernels.optimal import (
    BETA_1,
    CLASSES,
    NORMAL,
    SIGMA_1,
    START,
    STARTS,
    STD,
    B,
    M,
    S,
    carried_normal,
    cdf_of_state,
    grid,
    quantiles_of_state,
    run,
    spread_of_normal,
    step_of_bits,
    step_of_normal,
    step_of_two_classes,
)
from tests.kernels.support import ON_CPU, SHARED
from tests.kernels.test_distributions import has_moments
from tests.kernels.vocabulary_cases import STEPS

on_each, on_one = (pytest.mark.parametrize("backend", backends) for backends in (ON_CPU, SHARED))


def orders(errors) -> list[float]:
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize(("rule", "order"), [("ode1", 1), ("ode2", 2), ("ode_euler", 1)])
@on_one
def test_order_for_normal_data(rule, order, backend):
    start = torch.special.ndtri(STARTS) * spread_of_normal(START) + NORMAL.gamma(START)[0] * M
    want = carried_normal(start, START, 1.0)
    step = partial(step_of_normal, backend=backend)
    errors = [(run(step, start, grid(START, 1.0, n), rule, order == 2) - want).abs().max() for n in (32, 64, 128)]
    assert all(abs(found - order) < 0.15 for found in orders(errors)), (errors, orders(errors))


@pytest.mark.parametrize(("rule", "order"), [("ode1", 1), ("ode2", 2), ("ode_euler", 1)])
@pytest.mark.parametrize("kind", ["binary", "two classes"])
@on_one
def test_order_for_two_classes(rule, order, kind, backend):
    start = quantiles_of_state(STARTS, START)
    want = quantiles_of_state(STARTS, 1.0)
    if kind == "binary":
        step, difference = partial(step_of_bits, backend=backend), lambda d: d
    else:
        start = torch.stack([-start / 2, start / 2], -1)
        step, difference = partial(step_of_two_classes, backend=backend), lambda z: z[:, 1] - z[:, 0]
    errors = []
    for n in (32, 64, 128):
        errors.append((difference(run(step, start, grid(START, 1.0, n), rule, order == 2)) - want).abs().max())
    assert all(abs(found - order) < 0.15 for found in orders(errors)), (errors, orders(errors))


# ---- The coefficients


@pytest.mark.parametrize(("r", "s", "t"), [(0.1, 0.3, 0.4), (0.2, 0.5, 0.9)])
def test_published_coefficients(r, s, t):
    """BFN-Solver's formulas as they stand, in reverse time τ = 1 − t (arXiv 2404.15766)."""
    (a_s, v_s), (a_t, v_t), (a_r, v_r) = (NORMAL.gamma(x) for x in (s, t, r))
    std_s, std_t = math.sqrt(a_s * v_s), math.sqrt(a_t * v_t)
    place = lambda a, v: math.log(a / math.sqrt(a * v))  # noqa: E731
    h, h_before = place(a_t, v_t) - place(a_s, v_s), place(a_s, v_s) - place(a_r, v_r)
    ahead = h / h_before / 2
    ode = (std_t / std_s, a_t * (1 - math.exp(-h)), None, ahead)
    take = 1 - math.exp(-2 * h)
    sde = (std_t / std_s * math.exp(-h), a_t * take, std_t**2 * take, ahead)
    for rule, want in (("ode2", ode), ("sde2", sde)):
        close(coefficients(rule, NORMAL, s, t, r), want)
        close(coefficients(rule[:3] + "1", NORMAL, s, t), (*want[:3], None))

    tau_s, tau_t, tau_r = 1 - s, 1 - t, 1 - r
    d, beta = tau_t - tau_s, lambda tau: BETA_1 * (1 - tau) ** 2
    c = BETA_1 * (1 - tau_t)  # K is in the formula of the step
    slope = -c * d**2 / 2 / (tau_s - tau_r)  # of (p_s − p_r), over K
    ode = ((1 - tau_t) / (1 - tau_s), -c * d, None, slope / (-c * d))
    rise = beta(tau_t) - beta(tau_s)
    slope = -BETA_1 * d**2 * (tau_s + 2 * tau_t - 3) / 3 / (tau_r - tau_s)
    sde = (None, rise, rise, slope / rise)
    for rule, want in (("ode2", ode), ("sde2", sde)):
        close(coefficients(rule, CLASSES, s, t, r), want)
        close(coefficients(rule[:3] + "1", CLASSES, s, t), (*want[:3], None))

    step, log_variance = t - s, 2 * math.log(SIGMA_1)
    f, g2 = log_variance * v_s / a_s, -log_variance * v_s  # μ' = μ − (fμ + g²ε̂/σ)·step, half of g² for the ODE
    of_mean, of_x_hat = f * step + g2 * step / std_s**2, g2 * step * a_s / std_s**2
    close(coefficients("sde_euler", NORMAL, s, t), (1 - of_mean, of_x_hat, g2 * step, None))
    close(coefficients("ode_euler", NORMAL, s, t), (1 - of_mean + g2 * step / std_s**2 / 2, of_x_hat / 2, None, None))
    alpha = 2 * BETA_1 * s * step
    close(coefficients("sde_euler", CLASSES, s, t), (None, alpha, alpha, None))
    close(coefficients("ode_euler", CLASSES, s, t), (1 + step / s, alpha / 2, None, None))


def close(got, want) -> None:
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        assert one is None or float(one) == pytest.approx(float(other), rel=1e-12)


def test_coefficients_of_many_times_and_of_another_schedule():
    """A table of a whole run at once; and the flow's own law for a schedule that BFN-Solver does not have: of a network
    that always predicts the truth, the state's mean is that of the flow at every time."""
    schedule, times = LogarithmicAccuracy(5, 0.8), torch.linspace(0.1, 1, 9, dtype=torch.float64)
    for rule in RULES:
        table = coefficients(rule, schedule, times[:-1], times[1:])
        for i in range(8):
            one = coefficients(rule, schedule, float(times[i]), float(times[i + 1]))
            close([None if numbers is None else numbers[i] for numbers in table], one)
        keep = 1 if table.keep is None else table.keep
        beta = schedule.beta(times)
        if not rule.endswith("euler"):  # whose steps do so only in the limit
            torch.testing.assert_close(keep * beta[:-1] + table.take, beta[1:])


def test_a_second_step_from_the_prior_takes_no_earlier_prediction():
    """λ is −∞ at t = 0, and a line through a point so far away has no slope."""
    assert coefficients("sde2", NORMAL, 0.3, 0.4, 0.0).extrapolation == 0
    assert coefficients("sde2", CLASSES, 0.3, 0.4, 0.0).extrapolation > 0  # but √β is 0 there
    assert float(start_variance(NORMAL, 0.0)) == float(start_variance(CLASSES, 0.0)) == 0


# ---- Steps


@on_each
def test_a_step_of_messages_is_an_update(backend):
    """ "sde1" sends a message, as ancestral sampling does; with a sample it is ancestral sampling."""
    x, z = torch.linspace(-1, 1, 24).reshape(2, 12), torch.linspace(-2, 2, 24).reshape(2, 4, 3)
    accuracy = [1 / NORMAL.gamma(t)[1] for t in (0.4, 0.6)]
    want, _ = continuous.update_sample(x / 2, x, accuracy[0], accuracy[1] - accuracy[0], seed=3, backend=backend)
    got = continuous.solver_step(x / 2, x, 0.4, 0.6, rule="sde1", parametrisation="data", seed=3, backend=backend, **S)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    alpha = CLASSES.beta(0.6) - CLASSES.beta(0.4)
    for family, logits in ((discrete, z), (binary, x)):
        for choose in ("sample", "mode", "mean"):
            want = family.update_sample(logits, logits / 2, alpha, choose=choose, seed=3, backend=backend)
            k = {"rule": "sde1", "choose": choose, "seed": 3, "backend": backend, **B}
            torch.testing.assert_close(family.solver_step(logits, logits / 2, 0.4, 0.6, **k), want)
    options = {"num_bins": 8, "parametrisation": "data", "seed": 3, "backend": backend, **S}
    rho = accuracy[0], accuracy[1] - accuracy[0]
    want, _ = discretised.update_sample(x, x - 2, x / 2, rho[0], 0.4, rho[1], **options)
    got = discretised.solver_step(x, x - 2, x / 2, 0.4, 0.6, rule="sde1", choose="sample", **options)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@on_each
def test_guidance_and_temperature_are_of_the_logits(backend):
    z, other = torch.linspace(-2, 2, 24).reshape(2, 4, 3), torch.linspace(1, -1, 24).reshape(2, 4, 3).square()
    weight, temperature = torch.tensor([0.5, 2.0]), torch.tensor([0.7, 1.5])
    w, t = weight.view(2, 1, 1), temperature.view(2, 1, 1)
    guided = ((1 + w) * z - w * other) / t
    for family in (discrete, binary):
        k = {"beta_1": 3.0, "backend": backend}
        for choose in ("mean", "mode", "sample"):
            k |= {"choose": choose, "seed": 5}
            want = family.solver_step(guided, z, 0.4, 0.6, **k)
            got = family.solver_step(z, z, 0.4, 0.6, unconditional=other, guidance=weight, temperature=temperature, **k)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
            cooled = family.solver_step(z, z, 0.4, 0.6, temperature=0.5, **k)
            torch.testing.assert_close(cooled, family.solver_step(2 * z, z, 0.4, 0.6, **k))


@on_each
@pytest.mark.parametrize("num_classes", [2, 3, 40, 600])
def test_guidance_of_minus_one_is_without_the_condition(num_classes, backend):
    """Whatever the conditional logits are, in rows of any length: they are multiplied by 0."""
    z, other = (torch.linspace(-2, end, 6 * num_classes).reshape(2, 3, num_classes) for end in (2, 5))
    k = {"beta_1": 1.0 / num_classes, "backend": backend}
    want = discrete.solver_step(other, z, 0.4, 0.6, **k)
    got = discrete.solver_step(z, z, 0.4, 0.6, unconditional=other, guidance=-1.0, **k)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@on_each
def test_guidance_leaves_probabilities_of_0(backend):
    """A class that is masked by −∞, in both logits or without weight for the other ones."""
    z = torch.tensor([[1.0, 2.0, -torch.inf], [-torch.inf, 0.5, 1.0]]).repeat(4, 1)
    state, p = torch.zeros_like(z), torch.empty_like(z)
    k = {"beta_1": 3.0, "predicted_out": p, "backend": backend}
    for other, weight in ((z, 1.0), (z, 0.0), (z.roll(1, 0), 0.0), (-z, 0.0), (z.clamp(min=-9), -1.0)):
        assert discrete.solver_step(z, state, 0.4, 0.6, unconditional=other, guidance=weight, **k).isfinite().all()
        assert torch.equal(p == 0, z.isinf())
        binary.solver_step(z, state, 0.4, 0.6, unconditional=other, guidance=weight, **k)
        assert torch.equal(p == 0, z.isinf())


@on_each
def test_known_variables_end_at_what_is_known(backend):
    """Whatever the network says of them, by every rule."""
    times, known, mask = grid(0.02, 1.0, 20), torch.tensor([[1, 0, 1, 0]]), torch.tensor([[True, True, False, False]])
    for rule, second in (("ode1", False), ("ode2", True), ("sde1", False), ("sde2", True), ("renoise", False)):
        of = {"known_mask": mask, "backend": backend}

        def step(mean, t, t_next, of=of, **k):
            options = {"parametrisation": "data", "seed": int(1000 * t), "sigma_1": 1e-3}
            return continuous.solver_step(0 * mean, mean, t, t_next, known=known - 0.5, **options, **of, **k)

        mean = run(step, torch.zeros(1, 4), times, rule, second)
        torch.testing.assert_close(mean, torch.tensor([[0.5, -0.5, 0, 0]]), rtol=0, atol=0.02)

        def step_bits(d, t, t_next, of=of, **k):
            return binary.solver_step(0 * d, d, t, t_next, known=known, beta_1=30.0, seed=int(1000 * t), **of, **k)

        d = run(step_bits, torch.zeros(1, 4), times, rule, second)
        assert d[0, 0] > 20 and d[0, 1] < -20, (rule, d)


# ---- Samples of a whole run


SAMPLERS = [
    *(("ode1", 400, 0.05), ("ode2", 100, 0.05), ("ode_euler", 400, 0.05)),
    *(("sde1", 400, 0.0), ("sde2", 100, 0.0), ("sde_euler", 400, 0.0)),
]


@pytest.mark.parametrize(("rule", "steps", "start"), SAMPLERS)
def test_all_rules_draw_the_same_distribution(rule, steps, start):
    """Of a network that is optimal, after many steps: the flow's at t = 1, for normal data and for two classes."""
    count, seeds, times = 20_000, iter(range(2 * steps)), grid(start, 1.0, steps)
    noise = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def end(step, state):
        def seeded(state, t, t_next, **k):
            return step(state, t, t_next, backend=None, seed=next(seeds), **k)

        return run(seeded, state, times, rule, rule.endswith("2"))

    off = 0.01  # what the number of steps leaves
    mean = end(step_of_normal, NORMAL.gamma(start)[0] * M + spread_of_normal(start) * noise)
    assert abs(mean.mean() - NORMAL.gamma(1.0)[0] * M) < 5 * STD / count**0.5 + off
    assert abs(mean.std() / spread_of_normal(1.0) - 1) < 5 * (2 * count) ** -0.5 + off
    d = end(step_of_bits, quantiles_of_state(torch.special.ndtr(noise), start) if start else 0 * noise)
    for edge in (-4.0, 0.0, 4.0, 8.0):
        p = cdf_of_state(torch.tensor(edge, dtype=torch.float64), 1.0)
        assert abs((d < edge).double().mean() - p) < 5 * (p * (1 - p) / count) ** 0.5 + off, edge


@on_each
def test_renoised_states_are_of_the_flow(backend):
    """A = 0: of what was, nothing is left, and the state is the flow's at t_next of what was predicted."""
    x = torch.full((20_000,), 0.7)
    k = {"rule": "renoise", "seed": 4, "backend": backend}
    mean = continuous.solver_step(x, torch.full_like(x, 5.0), 0.2, 0.3, parametrisation="data", **S, **k)
    gamma = NORMAL.gamma(0.3)[0]
    has_moments(mean, 0.7 * gamma, gamma * (1 - gamma))
    beta = CLASSES.beta(0.3)
    has_moments(binary.solver_step(x + 50, 9 * x, 0.2, 0.3, **B, **k), 2 * beta, 4 * beta)
    logits = torch.stack([x + 50, x], -1)
    has_moments(discrete.solver_step(logits, 9 * logits, 0.2, 0.3, **B, **k)[:, 0], beta, 2 * beta)


# ---- What is refused

X, Z = torch.zeros(2, 3), torch.zeros(2, 3, 4)


def of_mean(prediction=X, mean=X, t=0.4, t_next=0.6, **k):
    return continuous.solver_step(prediction, mean, t, t_next, **{**S, **k})


def of_bins(pred=X, mean=X, t=0.4, t_next=0.6, **k):
    return discretised.solver_step(pred, pred, mean, t, t_next, **{"num_bins": 4, **S, **k})


def of_classes(logits=Z, state=Z, t=0.4, t_next=0.6, **k):
    return discrete.solver_step(logits, state, t, t_next, **{**B, **k})


def of_bits(logits=X, state=X, t=0.4, t_next=0.6, **k):
    return binary.solver_step(logits, state, t, t_next, **{**B, **k})


class Both(QuadraticAccuracy):
    """A schedule of classes that could be one of means."""

    def gamma(self, t):
        return t, 1 - t


EACH = (of_mean, of_bins, of_classes, of_bits)
GIVEN, SHRINKING = Coefficients(1.0, 1.0), Coefficients(1.0, 1.0, -1.0)
GUIDED = {"unconditional": Z, "guidance": 1.0}
LEARNED = QuadraticAccuracy(torch.ones((), requires_grad=True))
TOGETHER = "previous must be given together with t_previous"
REFUSED = [
    *((f, {"t": 0.0}, ValueError, "t must lie in.*got 0.0") for f in EACH),
    *((f, {"t_next": 0.3}, ValueError, "t_next must not lie before t, got 0.3 and 0.4") for f in EACH),
    *((f, {"t_next": None}, ValueError, "t and t_next must be given") for f in EACH),
    *((f, {"t_previous": 0.1}, ValueError, "t_previous must be None with rule='ode1'.*0.1") for f in EACH),
    *((f, {"t_previous": 0.1, "rule": "ode2"}, ValueError, TOGETHER) for f in EACH),
    *((f, {"noise": X}, ValueError, "noise must be None for a step without noise") for f in EACH),
    *((f, {"variance_scale": 0.5}, ValueError, "variance_scale must be None for a step.*0.5") for f in EACH),
    *((f, {"variance_scale": -1.0, "rule": "sde1"}, ValueError, "variance_scale must lie in.*-1.0") for f in EACH),
    *((f, {"coefficients": GIVEN}, ValueError, "t_next and t_previous must be None") for f in EACH),
    *((f, {"coefficients": (1, 1), "t_next": None}, TypeError, "coefficients must be.*tuple") for f in EACH),
    *((f, {"coefficients": SHRINKING, "t_next": None}, ValueError, "coefficients.variance must") for f in EACH),
    (of_mean, {"previous": X}, ValueError, TOGETHER),
    (of_mean, {"previous": X, "rule": "ode2", "t_previous": 0.4}, ValueError, "t_previous must lie before t, got 0.4"),
    (of_mean, {"predicted_out": X}, ValueError, "predicted_out must be the previous prediction itself or share no"),
    (of_bins, {"pred": 0.5, "unconditional": X, "guidance": 1.0}, TypeError, "pred_mean must be a tensor, got float"),
    (of_mean, {"guidance": 1.0}, ValueError, "unconditional and guidance must be given together"),
    (of_bins, {"pred": Z, "mixture_logits": Z, **GUIDED}, ValueError, "mixture_logits must be None with guidance"),
    (of_classes, {"guidance": 1.0}, ValueError, "unconditional and guidance must be given together"),
    (of_classes, {"score_clip": 1.0}, ValueError, "score must be given with score_clip"),
    (of_classes, {"score": Z.clone().requires_grad_()}, ValueError, "score requires a gradient"),
    (of_classes, {"class_mask": X > 0}, ValueError, r"class_mask must have shape \(4,\) or broadcast to \(2, 3, 4\)"),
    (of_classes, {"class_mask": Z[:1, :2] > 0}, ValueError, r"class_mask must .*got \(1, 2, 4\)"),
    (of_bits, {"beta_1": None, "schedule": LEARNED}, ValueError, "must not require a gradient"),
    (of_bits, {"beta_1": None, "schedule": Both(1.0)}, ValueError, "has both or none"),
    (of_bits, {"state": X.clone().requires_grad_()}, ValueError, "state requires a gradient"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "kind", "words"), REFUSED)
def test_refused(function, arguments, kind, words):
    with pytest.raises(kind, match=words):
        function(**arguments)


@pytest.mark.parametrize("schedule", [NORMAL, CLASSES], ids=["normal", "classes"])
def test_a_table_of_a_run_does_not_start_where_its_rule_cannot(schedule):
    for rule, kind in RULES.items():
        for t in (0.0, torch.tensor([0.0, 0.5])):
            if kind.from_prior:
                assert all(each is None or torch.isfinite(each).all() for each in coefficients(rule, schedule, t, 0.6))
                continue
            with pytest.raises(ValueError, match=f"t must be above 0 with rule='{rule}'"):
                coefficients(rule, schedule, t, 0.6)


def test_coefficients_that_a_caller_gives():
    """In the place of a rule: any solver, and A = 0."""
    step = Coefficients(keep=torch.tensor([0.0, 2.0]), take=0.5, extrapolation=1.0)
    mean, x_hat, before = (torch.full((2, 3), value) for value in (0.2, 0.4, 0.1))
    got = of_mean(x_hat, mean, t_next=None, coefficients=step, previous=before, parametrisation="data")
    torch.testing.assert_close(got, torch.tensor([[0.35], [0.75]]).expand(2, 3))
    got = discrete.solver_step(Z, Z + 1, coefficients=Coefficients(None, 0.5), backend=None)
    torch.testing.assert_close(got, Z + 1)
    assert solvers.RULES["ode2"].order == 2 == solvers.RULES["sde1"].order + 1


@pytest.mark.parametrize("rule", RULES)
def test_times_that_are_numbers_are_those_of_tensors(rule):
    """A step at Python numbers has cached coefficients, which depend on the rule, the schedule and all three times."""
    start = 0.0 if RULES[rule].from_prior else 0.2
    times = [(start, 0.5, None), (start, 1, None), (0.3, 0.5, None)]
    times += [(0.3, 0.5, 0.2), (0.3, 0.5, 0.1)] if RULES[rule].order == 2 else []
    logits = torch.tensor([[0.2, -0.4, 1.0, 0.0], [2.0, 0.1, -1.0, 0.5]])
    for t, t_next, before in 2 * times:
        wide = [None if each is None else torch.tensor(each, dtype=torch.float64) for each in (t, t_next, before)]
        for schedule in (QuadraticAccuracy(3.0), QuadraticAccuracy(2.0), LogarithmicAccuracy(3, 2.0)):
            for op, z in (
                (discrete, logits),
                (discrete, logits[:, :3]),
                (binary, logits),
            ):  # 4, 3 and 4 of its variance
                more = {"rule": rule, "choose": "mean", "schedule": schedule, "seed": 1}
                more["previous"] = None if before is None else z / 3
                got = op.solver_step(z, z + 1, t, t_next, t_previous=before, **more)
                want = op.solver_step(z, z + 1, wide[0], wide[1], t_previous=wide[2], **more)
                torch.testing.assert_close(got, want, rtol=0, atol=0)


NOISY = [
    case for case in [*CASES, *STEPS] if case.op.endswith("solver_step") and "noise" in case.fields and not case.long
]


@pytest.mark.parametrize("case", NOISY, ids=str)
def test_a_quarter_of_the_variance_is_half_the_noise(case):
    """To the bit, for a number and for a number of each row."""
    inputs = case.inputs((3, 4), torch.float32)
    inputs.pop("variance_scale", None)
    want = case(inputs | {"noise": inputs["noise"] / 2})
    for quarter in (0.25, torch.full((3,), 0.25)):
        assert torch.equal(case(inputs, variance_scale=quarter), want)
    assert torch.equal(case(inputs, variance_scale=1.0), case(inputs))
    assert not torch.equal(case(inputs), want) or case.into == "predicted_out"
