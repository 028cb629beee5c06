"""What a sampling run takes of the output distribution, what it knows, what it starts from, and what the network is
told."""

import math

import pytest
import torch

from bfn_kernels import binary, continuous, discrete, discretised, nn, samplers, vocabulary
from bfn_kernels.nn import Sampling
from bfn_kernels.noise import fold_in
from bfn_kernels.schedules import VonMisesAccuracy
from bfn_kernels.solvers import Coefficients
from tests.kernels.test_nn import KINDS, Network, each_kind, make

SHAPE, SEED, N = (3, 4), 5, 4
RUNS = ("ancestral", "ode2", "sde1")


class Told(Network):
    """A network whose output depends on a condition, a number."""

    def forward(self, theta, t, cond=None):
        output = super().forward(theta, t)
        return output if cond is None else output + cond * (3 * output).cos()


class Function(torch.nn.Module):
    """A function of a network as a module, which has the network's type."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.forward = network, function


def told(kind):
    model, _ = make(kind)
    network = Told(model.network.features, model.network.outputs)
    network.load_state_dict(model.network.state_dict())
    model.network = network
    return model.double()


def drawn(model, sampler, **how):
    """The states of a run, and its data."""
    states = []
    data = samplers.sample(model, SHAPE, N, seed=SEED, sampler=sampler, watch=lambda i, s: states.append(s), **how)
    return torch.stack([state[0] for state in states]), data


@each_kind
@pytest.mark.parametrize("sampler", RUNS)
def test_a_condition_goes_to_the_network(kind, sampler):
    model = told(kind)
    network = model.network
    with_condition = drawn(model, sampler, cond=0.5)
    without = drawn(model, sampler)
    model.network = Function(network, lambda theta, t: network(theta, t, 0.5))
    for got, want in zip(with_condition, drawn(model, sampler), strict=True):
        torch.testing.assert_close(got, want)
    assert not torch.allclose(with_condition[0], without[0])


@each_kind
def test_losses_take_a_condition(kind):
    model, (_, x), t = told(kind), make(kind), torch.tensor([0.0, 0.3, 0.6])
    network, how = model.network, {"seed": 1, "reduction": "none"}
    got = model(x, t, cond=0.5, **how), model.reconstruction(x, cond=0.5, **how)
    other = model(x, t, **how)
    model.network = Function(network, lambda theta, t: network(theta, t, 0.5))
    torch.testing.assert_close(got, (model(x, t, **how), model.reconstruction(x, **how)))
    assert not torch.allclose(got[0], other)


def combined(kind, network, w):
    """The guided network, by its formula."""

    def call(theta, t):
        told, other = network(theta, t, 0.5), network(theta, t, -0.2)
        guided = (1 + w) * told - w * other
        return torch.stack([guided[..., 0], told[..., 1]], -1) if kind == "discretised" else guided

    return call


@each_kind
@pytest.mark.parametrize("sampler", RUNS)
def test_guidance_goes_away_from_the_output_without_the_condition(kind, sampler):
    model = told(kind)
    network, w = model.network, torch.tensor([1.5, 0.0, 3.0]).double()
    got = drawn(model, sampler, cond=0.5, unconditional=-0.2, guidance=w)
    number = drawn(model, sampler, cond=0.5, unconditional=-0.2, guidance=1.5)
    weight = w.view(3, *(1,) * (1 if kind in ("continuous", "binary") else 2))
    model.network = Function(network, combined(kind, network, weight))
    for mine, theirs in zip(got, drawn(model, sampler), strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(number[0][:, 0], got[0][:, 0])
    assert not torch.allclose(number[0][:, 1], got[0][:, 1])


def test_guided_steps_that_fit_their_error():
    model = told("discrete")
    network = model.network
    got, calls = samplers.sample_within(model, SHAPE, 0.1, seed=SEED, cond=0.5, unconditional=-0.2, guidance=2.0)
    model.network = Function(network, combined("discrete", network, 2.0))
    want, count = samplers.sample_within(model, SHAPE, 0.1, seed=SEED)
    assert torch.equal(got, want) and calls == count


def test_an_excluded_class_stays_excluded_by_guidance():
    model, _ = make("discrete")
    output, other = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    output[..., 2], other[..., 2] = -torch.inf, -torch.inf
    got = model.guided(output, other, torch.full((1, 1, 1), 2.0))
    assert (got[..., 2] == -torch.inf).all()
    torch.testing.assert_close(got[..., 3], 3 * output[..., 3] - 2 * other[..., 3])


def test_guided_angles_turn_along_the_shorter_arc():
    model = nn.Circular(lambda theta, t: theta[..., 0], VonMisesAccuracy([1.0, 2.0]), period=1.0)
    got = model.guided(torch.tensor([0.45]), torch.tensor([-0.45]), torch.tensor([1.0]))
    torch.testing.assert_close(got, torch.tensor([0.35]))
    with pytest.raises(ValueError, match="start must be None for circular data"):
        samplers.sample(model, (2, 3), 2, start=torch.zeros(2, 3))


CHOSEN = [(kind, choose) for kind in KINDS if kind != "continuous" for choose in ("sample", "mode", "mean")]


@pytest.mark.parametrize(("kind", "choose"), CHOSEN)
def test_a_message_is_about_what_is_chosen(kind, choose):
    """A step of ancestral sampling, by the op."""
    model = make(kind)[0].double().eval()
    states, _ = drawn(model, "ancestral", choose=choose)
    state, t, alpha = model.prior(SHAPE, torch.device("cpu")), torch.zeros(3).double(), model.schedule.alpha(1, N)
    with torch.no_grad():
        output, seed = model.output(model.theta(state), t), fold_in(SEED, 1)
        how = {"choose": choose, "seed": seed}
        match kind:
            case "discretised":
                how |= {"num_bins": 8, "schedule": model.schedule}
                want, _ = discretised.update_sample(output, None, state[0], 1.0, 0.0, alpha, **how)
            case "discrete":
                want = discrete.update_sample(output, state[0], alpha, **how)
            case "vocabulary":
                head = output[..., :-1], model.head.weight, model.head.bias
                want = vocabulary.update_sample(state[0], *head, alpha, flow_scale=output[..., -1], **how)
            case "binary":
                want = binary.update_sample(output, state[0], alpha, **how)
    torch.testing.assert_close(states[1], want)


@pytest.mark.parametrize("kind", ["discrete", "vocabulary", "binary"])
@pytest.mark.parametrize("sampler", RUNS)
def test_a_temperature_divides_logits(kind, sampler):
    model = make(kind)[0].double()
    got = drawn(model, sampler, temperature=0.5)
    network = model.network
    model.network = Function(network, lambda theta, t: 2 * network(theta, t))
    if kind == "vocabulary":
        with torch.no_grad():
            model.head.bias *= 2
    for mine, theirs in zip(got, drawn(model, sampler), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert not torch.allclose(got[0], drawn(model, sampler, temperature=0.5)[0])


@each_kind
@pytest.mark.parametrize("sampler", [*RUNS, None])
def test_what_is_known_is_drawn(kind, sampler):
    model, x = make(kind)
    rows = x.clone()
    known = {"known": rows, "known_mask": torch.tensor([[True, False, True, False]] * 3)}
    if sampler is None:
        data, _ = samplers.sample_within(model, SHAPE, 0.2, seed=SEED, **known)
    else:
        states, data = drawn(model, sampler, **known)
        assert not torch.equal(states, drawn(model, sampler)[0])
    assert torch.equal(data[:, ::2], x[:, ::2]) and data.dtype == x.dtype
    if kind == "continuous":
        assert not torch.equal(data[:, 1::2], x[:, 1::2])


@each_kind
@pytest.mark.parametrize("sampler", RUNS)
def test_a_run_starts_where_it_is_told(kind, sampler):
    model, _ = make(kind)
    states, _ = drawn(model, sampler)
    start, seen = torch.randn(states[0].shape).to(states), []
    model.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0].clone()))
    assert torch.equal(drawn(model, sampler, start=start)[0][0], start)
    match kind:
        case "discrete":
            want = start.softmax(-1)
        case "binary":
            want = start.sigmoid()
        case "vocabulary":
            want = start.softmax(-1) @ model.embedding.weight
        case _:
            want = start
    torch.testing.assert_close(seen[0], want)
    samplers.sample_within(model, SHAPE, 0.5, seed=1, start=start)
    with pytest.raises(ValueError, match="start must have shape"):
        samplers.sample(model, SHAPE, 2, start=start[:1])


@pytest.mark.parametrize(
    ("kind", "how", "message"),
    [
        ("continuous", {"choose": "mode"}, r"choose must be one of \['mean'\], got 'mode'"),
        ("discrete", {"choose": "best"}, r"choose must be one of \['sample', 'mode', 'mean'\], got 'best'"),
        ("continuous", {"temperature": 0.5}, "temperature must be None for data without classes, got 0.5"),
        ("binary", {"temperature": 0.0}, r"temperature must lie in \[1e-30, 1e\+30\], got 0.0"),
        ("binary", {"known": torch.zeros(3, 4)}, "known and known_mask must be given together"),
        ("binary", {"known": torch.zeros(3), "known_mask": torch.ones(3) > 0}, r"known must have shape \(3, 4\)"),
        ("binary", {"unconditional": 1.0}, "guidance must be given with unconditional"),
        ("binary", {"guidance": torch.ones(2)}, r"guidance must be a number or have shape \[3\], got \(2,\)"),
    ],
)
def test_what_a_model_cannot_do_is_refused(kind, how, message):
    for draw in (samplers.sample, samplers.sample_within):
        with pytest.raises(ValueError, match=message):
            draw(make(kind)[0], SHAPE, 2, **how)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"known": [[0] * 4] * 3, "known_mask": torch.ones(4) > 0}, TypeError, "known must be a tensor, got list"),
        ({"guidance": "2"}, TypeError, "guidance must be a number, got str"),
        ({"guidance": True}, TypeError, "guidance must be a number, got bool"),
        ({"guidance": math.nan}, ValueError, "guidance must lie in .*, got nan"),
        ({"guidance": torch.ones(3, device="meta")}, ValueError, "guidance must be on cpu, .*, got meta"),
    ],
)
def test_options_of_a_wrong_type_or_device_are_refused(how, error, message):
    for draw in (samplers.sample, samplers.sample_within):
        with pytest.raises(error, match=message):
            draw(make("binary")[0], SHAPE, 2, **how)


def test_a_second_order_step_of_a_large_vocabulary_refuses_what_was_sent():
    model = make("vocabulary")[0]
    for draw in (
        lambda: samplers.sample_within(model, SHAPE, 0.5, choose="mode"),
        lambda: drawn(model, "sde2", choose="mode"),
    ):
        with pytest.raises(ValueError, match=r"choose must be one of \['mean'\], got 'mode'"):
            draw()
    drawn(model, "sde1", choose="mode")


@pytest.mark.parametrize("kind", ["discrete", "binary", "discretised"])
def test_adaptive_steps_that_draw_read_the_seed(kind):
    model = make(kind)[0]
    start, inputs = torch.randn((*SHAPE, 5) if kind == "discrete" else SHAPE), []
    model.network.register_forward_pre_hook(lambda network, arguments: inputs.append(arguments[0].clone()))

    def last_input(seed):
        samplers.sample_within(model, SHAPE, 1e3, seed=seed, choose="sample", start=start)
        return inputs[-1]

    assert torch.equal(last_input(1), last_input(1)) and not torch.equal(last_input(1), last_input(2))


@torch.no_grad()
def test_the_error_of_a_step_of_a_large_vocabulary_is_that_of_what_is_sent():
    model = make("vocabulary")[0].double()
    torch.nn.init.zeros_(model.head.bias)
    step = Coefficients(0.9, 0.1, None, 0.5)
    before, state = (tuple(torch.randn(*SHAPE, size, dtype=torch.float64) for size in (30, 6, 30, 7)) for _ in range(2))

    def colder(tensors):  # logits are linear in the network's output
        return *tensors[:3], 2 * tensors[3]

    half = Sampling(temperature=0.5)
    torch.testing.assert_close(
        model.step_error(step, state, before, half), model.step_error(step, colder(state), colder(before))
    )
    assert model.step_error(step, state, before, half) != model.step_error(step, state, before)
    known = Sampling(known=torch.zeros(SHAPE).long(), known_mask=torch.ones(SHAPE) > 0)
    assert model.step_error(step, state, before, known) == 0


@pytest.mark.parametrize("sampler", RUNS)
def test_a_network_may_return_what_it_was_given(sampler):
    """A step overwrites the network's input. So the run copies an output that shares memory with the input."""
    for kind, more in ((nn.Continuous, {"sigma_1": 0.1}), (nn.Binary, {"beta_1": 9.0})):
        given, copied = (kind(network, **more) for network in (lambda theta, t: theta, lambda theta, t: theta.clone()))
        for got, want in zip(drawn(given, sampler), drawn(copied, sampler), strict=True):
            assert torch.equal(got, want)


def test_a_step_without_guidance_goes_under_transforms():
    model, t = nn.Continuous(lambda theta, t: 3 * theta, sigma_1=0.1), torch.full((2,), 0.5)
    found = torch.func.grad(lambda theta: model.guided_output(theta, t, Sampling()).sum())(torch.ones(2, 3))
    assert found.eq(3).all()


def test_plain_sampling_asks_for_nothing():
    assert Sampling().sent("mean") == {"choose": "mean", "known": None, "known_mask": None}


@pytest.mark.parametrize("kind", ["continuous", "discretised", "circular"])
def test_autocast_does_not_round_samples(kind):
    """Known data come back in the type of the model, which has float32 parameters."""
    angles = lambda: nn.Circular(Network(2, 1), VonMisesAccuracy([1.0, 2.0, 4.0]))  # noqa: E731
    model, known = angles() if kind == "circular" else make(kind)[0], torch.linspace(0.1, 0.9, 8).view(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        drawn = samplers.sample(model, (2, 4), 3, seed=1, known=known.double(), known_mask=known >= 0)
        assert samplers.sample(model, (2, 4), 3, seed=1).dtype == drawn.dtype == torch.float32
    assert torch.equal(drawn, known)


@pytest.mark.parametrize("model", [nn.Binary, nn.Continuous])
def test_sharp_outputs_in_float16_do_not_overflow(model):
    network, theta, t = lambda theta, t, cond: cond * torch.full((3, 4), 3e4).half(), torch.zeros(3, 4), torch.ones(3)
    sampling = Sampling(cond=1.0, unconditional=-1.0, guidance=1.0, temperature=1e-3)
    output = model(network, 0.5).guided_output(theta, t, sampling)
    torch.testing.assert_close(output, torch.full((3, 4), 9e4))
    torch.testing.assert_close(sampling.tempered(torch.tensor([70.0]).half()), torch.tensor([7e4]))


def test_what_a_large_vocabulary_keeps_of_the_previous_step_does_not_overflow():
    """A guided output has type float32. Its numbers may overflow the model's type float16."""

    def sharp(theta, t, cond=-1):
        return torch.tensor([cond * 4e4] + [0.0] * 6).half().expand(*theta.shape[:-1], 7)

    model = nn.Vocabulary(sharp, 0.5, num_classes=30, width=6).half()
    states, _ = drawn(model, "ode2", cond=1, guidance=1.0)
    assert states.isfinite().all()
    drawn_within, _ = samplers.sample_within(model, (2, 3), 0.1, seed=1, cond=1, guidance=1.0)
    assert drawn_within.shape == (2, 3)


def test_a_mode_is_rounded_to_float16_last():
    """A guided output has type float32. Its numbers may overflow float16."""
    network, output = torch.nn.Linear(1, 1).half(), torch.full((3, 4), 9e4)
    theta, t = torch.zeros(3, 4).half(), torch.ones(3)
    got = nn.Continuous(network, 0.5, clip=None).mode(output, theta, t)
    torch.testing.assert_close(got, (-output / 3**0.5).half())  # √((1 − γ)/γ) is 1/√3
    got = nn.Circular(network, VonMisesAccuracy([1.0]), period=7.0).mode(output, theta, t)
    torch.testing.assert_close(got, torch.ones(3, 4).half())  # 9e4 is 12857 periods and 1


# ---- Steps


def test_the_ancestral_rule_is_ancestral_sampling():
    """From time 0, in three families."""
    z, t, seed, beta = torch.randn(3, 4, 5), torch.tensor([0.0, 0.2, 0.5]), 3, {"beta_1": 2.0}
    alpha = 2.0 * ((t + 0.1) ** 2 - t**2)
    got = discrete.solver_step(z, z, t, t + 0.1, rule="ancestral", seed=seed, **beta)
    torch.testing.assert_close(got, discrete.update_sample(z, z, alpha, seed=seed))
    d = z[..., 0]
    got = binary.solver_step(d, d, t, t + 0.1, rule="ancestral", seed=seed, **beta)
    torch.testing.assert_close(got, binary.update_sample(d, d, alpha, seed=seed))
    sigma, limit = {"sigma_1": 0.1}, {"num_bins": 8}
    rho, later = 0.1 ** (-2 * t), 0.1 ** (-2 * (t + 0.1))
    got = discretised.solver_step(z[..., :2], None, d, t, t + 0.1, rule="ancestral", seed=seed, **sigma, **limit)
    want, _ = discretised.update_sample(z[..., :2], None, d, rho, t, later - rho, seed=seed, **sigma, **limit)
    torch.testing.assert_close(got, want)
    mode = discrete.solver_step(z, z, t, t + 0.1, rule="ancestral", choose="mode", seed=seed, **beta)
    torch.testing.assert_close(mode, discrete.update_sample(z, z, alpha, choose="mode", seed=seed))


@pytest.mark.parametrize("backend", [None, "reference"])
def test_guided_steps_of_reals_and_of_bins(backend):
    prediction, other, mean = torch.randn(3, 3, 4, 2)[..., 0], torch.randn(3, 4), torch.rand(3, 4) - 0.5
    prediction, w, b = prediction[0], torch.tensor([0.0, 1.0, 2.5]), {"backend": backend}
    times, how = (0.3, 0.6), {"sigma_1": 0.1, "rule": "ode1", **b}
    guided = prediction + w[:, None] * (prediction - other)
    got = continuous.solver_step(prediction, mean, *times, unconditional=other, guidance=w, **how)
    torch.testing.assert_close(got, continuous.solver_step(guided, mean, *times, **how))
    assert not torch.allclose(got, continuous.solver_step(prediction, mean, *times, **how))
    log_std, bins = torch.full((3, 4), -1.0), {"num_bins": 8, **how}
    want = discretised.solver_step(guided, log_std, mean, *times, **bins)
    got = discretised.solver_step(prediction, log_std, mean, *times, unconditional=other, guidance=w, **bins)
    torch.testing.assert_close(got, want)
    both, stacked = torch.stack([prediction, log_std], -1), torch.stack([other, torch.full((3, 4), math.nan)], -1)
    got = discretised.solver_step(both, None, mean, *times, unconditional=stacked, guidance=w, **bins)
    torch.testing.assert_close(got, want)
