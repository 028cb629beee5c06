"""Circular data: the law of the concentration, draws of angles, and what is special about the ops.

    BFN_ACCURACIES=CrysBFN/cache_files pytest tests/kernels/test_circular.py -k "sum_of_messages or moments"

also compares flows with simulations, and laws and tables with quadrature, for all files of accuracies in a folder. With
1000 messages this takes minutes.
"""

import functools
import math
import os
from pathlib import Path

import pytest
import torch

from bfn_kernels import circular, concentrations, continuous, nn, samplers
from bfn_kernels.schedules import ExponentialVariance, VonMisesAccuracy
from tests.kernels.support import NATIVE, ON_CPU

COUNT = 100_000
# Published accuracies of ten messages (arXiv 2502.02016, linear_entropy_alphas_s10_1000.0).
PUBLISHED = (1.4780, 1.5872, 2.6274, 5.3850, 11.4376, 24.5492, 52.9927, 114.7026, 248.5802, 539.0327)
mpmath, stats = pytest.importorskip("mpmath"), pytest.importorskip("scipy.stats")
TEN = VonMisesAccuracy(torch.tensor(PUBLISHED, dtype=torch.float64))
EACH = ON_CPU if "cpu" in NATIVE else NATIVE
on_each = pytest.mark.parametrize("backend", EACH)


def wrap(angle):
    return angle - 2 * math.pi * (angle / (2 * math.pi)).round()


def simulated(alphas, count=COUNT):
    """The mean and the concentration after each number of messages about the angle 0, by scipy's draws."""
    state = torch.zeros(count, dtype=torch.complex128)
    for number, alpha in enumerate(alphas):
        y = torch.as_tensor(stats.vonmises(alpha).rvs(count, random_state=number))
        state = state + alpha * torch.polar(torch.ones_like(y), y)
        yield state.angle(), state.abs()


def statistics(mean, concentration):
    """Numbers that describe a sample, and their standard errors."""
    mean, c = mean.double(), concentration.double()
    found = {"E c": c, "E cos": mean.cos(), "E c cos": c * mean.cos(), "var c": (c - c.mean()).square()}
    each = {name: (v.mean().item(), v.std().item() / len(c) ** 0.5) for name, v in found.items()}
    ordered, n = c.sort().values, len(c)
    for q in (0.05, 0.95):
        spread = 1.5 * (n * q * (1 - q)) ** 0.5  # of the rank, generously
        low, high = (ordered[int(n * q + sign * spread)].item() for sign in (-1, 1))
        each[f"{q}"] = ordered[int(n * q)].item(), (high - low) / 3
    return each


def published():
    """The accuracies of each file of the folder BFN_ACCURACIES."""
    for path in sorted(Path(os.environ["BFN_ACCURACIES"]).iterdir()) if "BFN_ACCURACIES" in os.environ else ():
        yield pytest.param(torch.as_tensor(torch.load(path)).flatten().tolist(), id=path.name)


@functools.cache
def laws_of(alphas: tuple[float, ...]) -> list[concentrations.Law]:
    return [*concentrations.laws(alphas)]


TEN_MESSAGES, WEAK = pytest.param(PUBLISHED, id="ten"), pytest.param([0.3] * 6, id="weak")
on_accuracies = pytest.mark.parametrize("alphas", [TEN_MESSAGES, *published()])


@pytest.mark.skipif("cpu" not in NATIVE, reason="the interpreters take minutes for so many")
@on_accuracies
def test_a_flow_is_a_sum_of_messages(alphas):
    """At ten steps, in three standard errors of the difference."""
    x, schedule = torch.zeros(COUNT), VonMisesAccuracy(alphas)
    shown = torch.linspace(2, len(alphas) + 1, 10).round().int().tolist()
    for step, (mean, c) in enumerate(simulated(alphas), 2):
        if step not in shown:
            continue
        want = statistics(mean, c)
        got = statistics(*circular.flow_sample(x, step, schedule=schedule, seed=step))
        for name, (value, error) in got.items():
            other, its_error = want[name]
            most = 3 * math.hypot(error, its_error) + 1e-6 * abs(other) + 1e-9
            assert abs(value - other) <= most, f"{name} at step {step}: {value}, simulated {other}, allowed {most:.2g}"


@on_accuracies
def test_the_law_of_the_concentration_has_exact_moments(alphas):
    """E c² and E c·A(c) follow from single messages: E c² = Σα_i² + 2Σα_iα_jA_iA_j, E c·A(c) = E c·cos μ = Σα_iA_i."""
    alphas = VonMisesAccuracy(alphas).alphas
    cosines = concentrations.ratio(alphas)
    for count, law in enumerate(laws_of(tuple(alphas.tolist())), 1):
        sent = (alphas * cosines)[:count]
        square = sent.sum() ** 2 - sent.square().sum() + alphas[:count].square().sum()
        assert abs(law.mean(law.nodes.square()) / square - 1) < 1e-7
        assert abs(law.mean(law.nodes * concentrations.ratio(law.nodes)) / sent.sum() - 1) < 1e-7


@pytest.mark.parametrize("alphas", [TEN_MESSAGES, WEAK, *published()])
def test_the_table_keeps_moments_and_quantiles(alphas, monkeypatch):
    """Linear interpolation between quantiles leaves mean, deviation and the mean cosine within 1e-4 of the law's, and
    quantiles within 1e-3, by quadrature with twice as many nodes."""
    table = (TEN if alphas is PUBLISHED else VonMisesAccuracy(alphas)).table
    shown = torch.linspace(2, len(alphas), 10).round().int().tolist()
    monkeypatch.setattr(concentrations, "_NODES", 2 * concentrations._NODES)
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    weight = (-z.square() / 2).softmax(0)
    before = concentrations.PRIOR
    for count, (alpha, law) in enumerate(zip(alphas, concentrations.laws(alphas), strict=True), 1):
        if count in shown:
            c = circular.reference.concentrations(torch.zeros(1), table[count][None], z)
            mean = weight @ c
            got = mean, (weight @ (c - mean).square()).sqrt(), weight @ concentrations.ratio(c)
            moved, share = concentrations._moved(before, alpha, max(256, 200_000 // len(before.nodes)))
            mean = ((share := share * concentrations._scaled_bessel(moved)) * moved).sum()
            want = mean, (share * (moved - mean).square()).sum().sqrt(), (share * concentrations.ratio(moved)).sum()
            most = 1e-6 if len(before.nodes) == 1 else 1e-4  # after two messages the law has no error of its own
            for one, other in zip(got, want, strict=True):
                torch.testing.assert_close(one, other, rtol=most, atol=0)
            ordered, place = moved.flatten().sort()
            below = share.flatten()[place].cumsum(0)
            for q in (0.05, 0.95):
                quantile = c[int(torch.searchsorted(weight.cumsum(0), q))]
                torch.testing.assert_close(quantile, ordered[int(torch.searchsorted(below, q))], rtol=1e-3, atol=0)
        before = law


def test_a_draw_beyond_the_table_has_its_last_quantile():
    step, table = torch.ones(1), TEN.table[3:6]
    within, beyond = (circular.reference.concentrations(step, table, torch.tensor([-z, z])) for z in (6.0, 7.0))
    assert torch.equal(beyond, within) and within[0] < within[1]


def test_the_linear_schedule_is_linear():
    entropies = VonMisesAccuracy.linear_entropy(50, 1000.0).entropies()
    last = concentrations.entropy(torch.tensor(1000.0, dtype=torch.float64)).item()
    want = torch.linspace(math.log(2 * math.pi), last, 51, dtype=torch.float64)
    assert (entropies - want).abs().max() < 1e-4
    off = VonMisesAccuracy(PUBLISHED).entropies() - torch.linspace(want[0], want[-1], 11, dtype=torch.float64)
    assert 0.05 < off.abs().max() < 0.2  # of the published search, which assumes that all messages agree


@pytest.mark.parametrize(("n_steps", "last"), [(1, 1e-6), (3, 1e-5), (3, 1e-2), (2, 1e6)])
def test_the_linear_schedule_is_linear_for_every_last_concentration(n_steps, last):
    """The entropy falls by ¼last² nats in all if `last` is small. The error is relative to this fall."""
    schedule = VonMisesAccuracy.linear_entropy(n_steps, last)
    laws = concentrations.laws(schedule.alphas.tolist())
    falls = [law.mean(concentrations.entropy_fall(law.nodes)) for law in laws]
    with mpmath.workdps(40):
        first, second = mpmath.besseli(0, last), mpmath.besseli(1, last)
        total = float(last * second / first - mpmath.log(first))
    for step, fall in enumerate(falls, 1):
        assert fall == pytest.approx(total * step / n_steps, rel=1e-5)


@pytest.mark.skipif("cpu" not in NATIVE, reason="the interpreters take minutes for so many")
@pytest.mark.parametrize("concentration", [0.0, *(3.0 * 10**e for e in range(-2, 6)), 1e6])
def test_draws_are_von_mises(concentration):
    """A test of Kolmogorov and Smirnov in each decade."""
    y = circular.sender_sample(torch.zeros(COUNT), concentration, seed=7).double()
    law = stats.vonmises(concentration) if concentration else stats.uniform(-math.pi, 2 * math.pi)
    assert stats.kstest(y.numpy(), law.cdf).pvalue > 1e-3


def test_most_first_proposals_are_accepted_and_attempts_have_a_bound(monkeypatch):
    """Without more words, the first proposal stands."""
    x = torch.zeros(5000)
    for concentration in (0.0, 0.1, 1.0, 3.0, 50.0, 1e6):
        want = circular.sender_sample(x, concentration, seed=1, backend="reference")
        with monkeypatch.context() as patch:
            patch.setattr(circular.reference, "MOST_CALLS", 0)
            got = circular.sender_sample(x, concentration, seed=1, backend="reference")
        assert 0.96 < (got == want).double().mean() < 0.99


@pytest.mark.parametrize("concentration", [0.0, *(10.0**e for e in torch.linspace(-3, 8, 120).tolist())])
def test_proposals_cover_the_circle_and_have_enough_density(concentration):
    """By rejection, proposals become exact draws if they cover the circle and no probability of acceptance exceeds 1.
    Angles beyond the angles of the outermost words have a probability below 1e-8."""
    words = torch.cat([torch.arange(1 << 12), torch.logspace(12 * math.log10(2), 31 * math.log10(2), 4000).long() - 1])
    tail = words.float() * 2**-31 + 2**-32
    k = torch.full(tail.shape, concentration, dtype=torch.float64)
    turns, height, most = circular.reference.proposals(k, tail)
    assert (turns.diff() <= 0).all() and (height <= 256 * most).all()
    law = stats.vonmises(concentration) if concentration < 1e5 else stats.norm(scale=concentration**-0.5)
    assert turns[0] >= 0.5 or law.sf(2 * math.pi * turns[0].item()) < 1e-8
    assert torch.equal(circular.reference.proposals(k, -tail)[0], -turns)


def exact_bessel(k):
    """ln I₀(k) − k, and 1 − I₁(k)/I₀(k), by mpmath."""
    with mpmath.workdps(40):
        first, second = mpmath.besseli(0, k), mpmath.besseli(1, k)
        return float(mpmath.log(first) - k), float(1 - second / first)


@on_each
def test_bessel_functions(backend):
    """The normaliser of the density, and its slope 1 − A, over the whole range."""
    k = torch.cat([torch.zeros(1), torch.logspace(-6, 4, 60), torch.tensor([9.99, 10.01, 17.99, 18.01])])
    want, falls = torch.tensor([exact_bessel(each) for each in k.tolist()], dtype=torch.float64).unbind(1)
    for dtype, most in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        c = k.to(dtype).requires_grad_()
        x = torch.zeros_like(k, dtype=dtype)
        loss = circular.reconstruction_loss(x, x, c, period=1.0, reduction="none", backend=backend)
        assert ((loss.detach().double() - want).abs() <= most * (1 + want.abs())).all()
        slope = torch.autograd.grad(loss.sum(), c)[0].double()
        floor = 4 * torch.finfo(dtype).eps if backend == "reference" else 0  # it subtracts nearly equal numbers
        assert ((slope + falls).abs() <= 2 * most * falls + floor).all()


@on_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_concentration_that_is_none_has_no_gradient(dtype, backend):
    c = torch.tensor([1.0, torch.nan, 0.0, 1e4], dtype=dtype, requires_grad=True)
    pred = torch.full_like(c, 0.3).requires_grad_()
    loss = circular.reconstruction_loss(torch.zeros_like(c), pred, c, reduction="none", backend=backend)
    for found in (loss, *torch.autograd.grad(loss.sum(), (c, pred))):
        assert found.isnan().tolist() == [False, True, False, False]


@on_each
def test_losses_are_divergences(backend):
    """n times KL(vM(x, α) ‖ vM(x̂, α)), by numerical integration, to 1e-6."""
    x, pred = torch.tensor([0.3, 3.0, -3.1]).double(), torch.tensor([1.3, -3.0, 0.1]).double()
    y = (torch.arange(20_000).double() + 0.5) * (2 * math.pi / 20_000)
    loss = circular.discrete_time_loss(x, pred, 6, schedule=TEN, reduction="none", backend=backend)
    log_p, log_q = (PUBLISHED[5] * (y - centre[:, None]).cos() for centre in (x, pred))
    p = log_p.softmax(1)
    torch.testing.assert_close(loss, 10 * (p * (log_p - log_q)).sum(1), rtol=1e-6, atol=0)
    weight = 10 * PUBLISHED[5] * concentrations.ratio(torch.tensor(PUBLISHED[5]).double())
    squared = circular.discrete_time_loss(x, pred, 6, schedule=TEN, reduction="none", squared=True, backend=backend)
    torch.testing.assert_close(squared, weight * wrap(x - pred).square(), rtol=1e-6, atol=0)


@on_each
def test_messages_one_by_one_are_an_update(backend):
    """`update_sample` is `sender_sample` and `bayesian_update`, in place too, and knows known values."""
    x, mean = torch.linspace(-3, 3, 64), torch.linspace(2, -2, 64)
    c, mask = torch.linspace(0, 9, 64), torch.arange(64) % 3 == 0
    known = mean.flip(0)
    of = {"seed": 5, "backend": backend}
    y = circular.sender_sample(torch.where(mask, known, x), 2.0, **of)
    want = circular.bayesian_update(mean, c, y, 2.0, backend=backend)
    got = circular.update_sample(x, mean, c, 2.0, known=known, known_mask=mask, **of)
    place = mean.clone(), c.clone()
    into = circular.update_sample(
        x, *place, 2.0, known=known, known_mask=mask, out=place[0], concentration_out=place[1], **of
    )
    assert into[0] is place[0] and into[1] is place[1]
    for one, other, written in zip(got, want, place, strict=True):
        assert wrap(one - other).abs().max() < 4e-6 and torch.equal(one, written)
    renoised = circular.renoise(x, 4, schedule=TEN, **of)
    assert all(map(torch.equal, renoised, circular.flow_sample(x, 4, schedule=TEN, **of)))


@on_each
def test_an_angle_of_too_many_turns_counts_as_zero(backend):
    """From 2²² turns on, a float32 has too few digits for the place on the circle."""
    nothing, y = torch.zeros(4), torch.tensor([2**22 + 0.5, -(2**22) - 0.5, 2**22 - 0.25, 0.25 - 2**22])
    mean, concentration = circular.bayesian_update(nothing, nothing, y, 2.0, period=1.0, backend=backend)
    torch.testing.assert_close(mean, torch.tensor([0, 0, -0.25, 0.25]))
    torch.testing.assert_close(concentration, nothing + 2)


@on_each
def test_periods_and_scaled_logarithms(backend):
    x = torch.rand(50, generator=torch.Generator().manual_seed(1))
    of = {"schedule": TEN, "seed": 3, "backend": backend}
    radians, c = circular.flow_sample(2 * math.pi * x, 5, **of)
    turns, same = circular.flow_sample(x, 5, period=1.0, **of)
    assert torch.equal(c, same) and (wrap(radians - 2 * math.pi * turns)).abs().max() < 4e-6
    assert turns.abs().max() <= 0.5
    _, log = circular.flow_sample(x, 5, period=1.0, output="log", **of)
    least, most = min(PUBLISHED), sum(PUBLISHED)
    want = 2 * (c.log() - math.log(least)) / math.log(most / least) - 1
    torch.testing.assert_close(log, want.clamp(-1, 1), rtol=1e-5, atol=1e-6)
    assert (circular.flow_sample(x, 1, output="log", **of)[1] == -1).all()
    log_out = torch.empty(50)
    _, new = circular.update_sample(x, x, c, 9.0, schedule=TEN, log_out=log_out, seed=1, backend=backend)
    want = 2 * (new.log() - math.log(least)) / math.log(most / least) - 1
    torch.testing.assert_close(log_out, want.clamp(-1, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
@on_each
def test_the_square_of_a_concentration_need_not_be_a_number_of_float32(backend, size):
    """If the accuracy is as large or small as the concentration, the new mean depends on their ratio alone."""
    mean, y, c = torch.tensor([[-3.0, 0.2, 2.0], [-1.0, 1.0, 3.0], [0.0, 0.5, 4.0]]).unbind()
    alpha = torch.tensor([1.0, 2.0, 0.5])
    got = circular.bayesian_update(mean, size * c, y, size * alpha, backend=backend)
    want = circular.bayesian_update(mean.double(), c.double(), y.double(), alpha, backend="reference")
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(got[1].double(), size * want[1], rtol=1e-6, atol=0)


@on_each
def test_padding_and_steps_of_nodes(backend):
    x, step = torch.linspace(-3, 3, 12).view(4, 3), torch.tensor([1, 4, 11, 7])
    of = {"schedule": TEN, "seed": 3, "backend": backend}
    mask = torch.tensor([True, True, False, True])
    hidden = torch.where(mask[:, None], x, torch.nan)
    mean, c = circular.flow_sample(hidden, step, mask=mask, **of)
    want = circular.flow_sample(x, step, **of)
    assert torch.equal(mean[mask], want[0][mask]) and torch.equal(c[mask], want[1][mask])
    assert mean.isfinite().all() and (c[2] == 0).all()
    for number, one in enumerate(step.tolist()):
        again = circular.flow_sample(x, one, **of)[0][number]
        torch.testing.assert_close(again, want[0][number], rtol=1e-6, atol=1e-6)


WRONG = [
    (lambda x: circular.flow_sample(x, 1, schedule=3.0), TypeError, "schedule must be a schedules.VonMisesAccuracy"),
    (lambda x: circular.discrete_time_loss(x, x, 1, schedule=3.0), TypeError, "schedule must be a schedules.VonMises"),
    (lambda x: circular.update_sample(x, x, x, 1.0, schedule=3.0), TypeError, "schedule must be a schedules.VonMises"),
    (lambda x: circular.update_sample(x, x, x, 1.0, log_out=x.clone()), ValueError, "schedule must be given"),
    (lambda x: VonMisesAccuracy([]), ValueError, "alphas must be a vector of positive"),
    (lambda x: TEN.alpha(torch.ones(1), 9), ValueError, "n_steps must be 10"),
]


@pytest.mark.parametrize(("call", "kind", "words"), WRONG)
def test_wrong_arguments(call, kind, words):
    with pytest.raises(kind, match=words):
        call(torch.zeros(2, 3))


@pytest.mark.skipif("cpu" not in NATIVE, reason="the module calls the fastest backend")
def test_the_bound_on_a_flat_density_is_that_of_the_law_of_the_concentration():
    """The best prediction is the mean of the state, whose cosine is A(c). The bound is above ln 2π."""
    model, count = nn.Circular(lambda theta, t: theta[..., 0], TEN), 20_000
    x = (torch.rand(count, 10, generator=torch.Generator().manual_seed(1)) - 0.5) * 2 * math.pi
    messages = model(x, torch.arange(count) % 10 / 10, seed=1, reduction="batch") / 10
    end = model.reconstruction(x, seed=2, reduction="batch") / 10
    *before, last = [0.0, *(law.mean(concentrations.ratio(law.nodes)) for law in laws_of(PUBLISHED))]
    k = torch.tensor(model.schedule.progress).double()
    want = [
        (TEN.weights * (1 - torch.tensor(before))).mean(),
        (2 * math.pi * torch.special.i0e(k)).log() + k * (1 - last),
    ]
    for found, exact in zip((messages, end), want, strict=True):
        assert abs(found.mean() - exact) < 4 * found.std() / count**0.5
    assert sum(want) > math.log(2 * math.pi) + 0.1


@on_each
def test_draws_of_many_variables_are_the_reference_s(backend):
    """Of more variables than a kernel draws at once, some of which need a second call."""
    x = torch.zeros(1, 5000)
    got = circular.sender_sample(x, 3.0, seed=4, backend=backend)
    assert wrap(got - circular.sender_sample(x, 3.0, seed=4, backend="reference")).abs().max() < 1e-5


def test_the_step_of_a_time_is_found_though_the_time_was_rounded():
    model = nn.Circular(torch.nn.Linear(2, 1), VonMisesAccuracy(torch.ones(1000)))
    assert torch.equal(model.step_at((torch.arange(1000) / 1000).float()), torch.arange(1, 1001))


def test_a_time_at_which_no_step_starts_is_refused():
    model = nn.Circular(torch.nn.Linear(2, 1), TEN)
    assert model.step_at(torch.tensor([0.0, 0.3, 1.0])).tolist() == [1, 4, 11]
    with pytest.raises(ValueError, match=r"t must be \(i - 1\)/n for a step i from 1 to n = 10, got 0.34"):
        model(torch.zeros(2), torch.tensor([0.3, 0.34]))


def test_a_checkpoint_holds_the_accuracies_and_what_follows_from_them():
    model = nn.Circular(torch.nn.Linear(2, 1), TEN)
    other = nn.Circular(torch.nn.Linear(2, 1), VonMisesAccuracy([1.0, 2.0]))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.schedule.alphas, TEN.alphas) and torch.equal(other.schedule.table, TEN.table)
    assert other.schedule.progress == TEN.progress
    assert other.bfloat16().schedule.alphas.dtype == torch.float64
    with pytest.raises(ValueError, match="n_steps must be 10"):
        model(torch.zeros(2), n_steps=9)
    with pytest.raises(ValueError, match="ancestral"):
        samplers.sample(model, (2,), 10, sampler="ode1")


@pytest.mark.skipif("cpu" not in NATIVE, reason="one backend is enough")
def test_normal_messages_about_a_circle_are_the_continuous_flow():
    """S/(1 + B) is the flow of `continuous`, and a point given S is von Mises with concentration |S|."""
    t, noise = torch.tensor(0.3), torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1))
    angle = (torch.rand(20_000, generator=torch.Generator().manual_seed(2)) * 2 - 1) * math.pi
    x = torch.stack([angle.cos(), angle.sin()], -1)
    gamma, rest = ExponentialVariance(0.1).gamma(0.3)
    total = gamma / rest  # B
    flow = continuous.flow_sample(x, t, sigma_1=0.1, noise=noise)
    sum_of_messages = total * x + math.sqrt(total) * noise
    torch.testing.assert_close(flow, sum_of_messages / (1 + total), rtol=1e-5, atol=1e-6)
    mean, c = torch.atan2(*sum_of_messages.double().unbind(-1)[::-1]), sum_of_messages.double().norm(dim=-1)
    share = stats.vonmises.cdf(wrap(angle - mean).numpy(), c.numpy())
    assert stats.kstest(share, "uniform").pvalue > 1e-3
