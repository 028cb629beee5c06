"""The modules that join a network to the ops: equal to the ops called one by one, and usable by a plain network."""

import itertools

import pytest
import torch
from torch import nn as torch_nn

from bfn_kernels import binary, continuous, discrete, discretised, nn, samplers
from bfn_kernels.noise import fold_in
from bfn_kernels.schedules import ExponentialVariance, QuadraticAccuracy, VonMisesAccuracy

SHAPE = (3, 4)


class Network(torch_nn.Module):
    """A small network of its own: features are the last dimension or the one number of a variable."""

    def __init__(self, features: int, outputs: int):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.outputs = features, outputs
        self.inner, self.outer = torch_nn.Linear(features + 1, 16), torch_nn.Linear(16, outputs)

    def forward(self, theta, t):
        h = theta if self.features > 1 else theta[..., None]
        h = torch.cat([h, t.view(-1, *[1] * (h.dim() - 1)).expand(*h.shape[:-1], 1)], -1)
        h = self.outer(torch.tanh(self.inner(h)))
        return h if self.outputs > 1 else h[..., 0]


def make(kind):
    """A model of a kind, and data."""
    generator = torch.Generator().manual_seed(1)
    classes = lambda k: torch.randint(0, k, SHAPE, generator=generator)  # noqa: E731
    match kind:
        case "continuous":
            return nn.Continuous(Network(1, 1), sigma_1=0.1), torch.rand(SHAPE, generator=generator) * 2 - 1
        case "discretised":
            x = discretised.from_levels(classes(8), num_bins=8)
            return nn.Discretised(Network(1, 2), sigma_1=0.1, num_bins=8), x
        case "discrete":
            return nn.Discrete(Network(5, 5), beta_1=3.0, num_classes=5), classes(5)
        case "vocabulary":
            return nn.Vocabulary(Network(6, 7), beta_1=0.5, num_classes=30, width=6, tied=True), classes(30)
        case "binary":
            return nn.Binary(Network(1, 1), beta_1=9.0), classes(2)


KINDS = ("continuous", "discretised", "discrete", "vocabulary", "binary")
each_kind = pytest.mark.parametrize("kind", KINDS)


def by_hand(kind, model, x, t, seed, n_steps=None):
    """The loss, by the public ops."""
    of, network = {"schedule": model.schedule}, model.network
    n = {} if n_steps is None else {"n_steps": n_steps}
    name = "continuous_time_loss" if n_steps is None else "discrete_time_loss"
    flow, later = fold_in(seed, 0), fold_in(seed, 1)
    match kind:
        case "continuous":
            mean = continuous.flow_sample(x, t, seed=flow, **of)
            return getattr(continuous, name)(x, network(mean, t), mean, t, **of, **n)
        case "discretised":
            mean = continuous.flow_sample(x, t, seed=flow, **of)
            return getattr(discretised, name)(x, *network(mean, t).unbind(-1), mean, t, num_bins=8, **of, **n)
        case "discrete":
            theta = discrete.flow_sample(x, t, num_classes=5, dtype=torch.float64, seed=flow, **of)
            draws = {"n_samples": 10, "seed": later} if n else {}
            return getattr(discrete, name)(x, network(theta, t), t, **of, **n, **draws)
        case "vocabulary":
            flow = {"num_classes": 30, "dtype": torch.float64, "seed": flow, **of}
            theta = discrete.flow_sample(x, t, **flow)
            output, draws = network(theta @ model.embedding.weight, t), {"seed": later} if n else {}
            y = discrete.flow_sample(x, t, output="logits", **flow)
            return getattr(discrete, name)(
                x, model.head(output[..., :-1]) + output[..., -1:] * y, t, **of, **n, **draws
            )
        case "binary":
            theta = binary.flow_sample(x, t, dtype=torch.float64, seed=flow, **of)
            nodes = {"quadrature": 32} if n else {}
            return getattr(binary, name)(x, network(theta, t), t, **of, **n, **nodes)


@each_kind
@pytest.mark.parametrize("n_steps", [None, 4])
def test_a_loss_and_its_gradient_are_those_of_the_ops(kind, n_steps):
    model, x = make(kind)
    model, x, t = model.double(), x.double() if x.is_floating_point() else x, torch.tensor([0.0, 0.25, 0.75]).double()
    results = []
    for loss in (model(x, t, seed=7, n_steps=n_steps), by_hand(kind, model, x, t, 7, n_steps)):
        model.zero_grad()
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-13)


@each_kind
def test_what_is_drawn_follows_torchs_seed(kind):
    model, x = make(kind)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append((model(x), model(x), model.reconstruction(x), samplers.sample(model, (2, 4), 3).double().sum()))
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]
    assert all(first != other for first, other in zip(drawn[0][:3], drawn[2][:3], strict=True))


@each_kind
@pytest.mark.parametrize("n_steps", [None, 3])
def test_times_that_are_not_given_lie_one_in_each_part_of_the_batch(kind, n_steps):
    model, x = make(kind)
    seen = []
    model.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[1]))
    model(x[:1].expand(12, -1), n_steps=n_steps, seed=3)
    parts = (seen[0] * (n_steps or 12)).round(decimals=4).floor().sort().values
    assert parts.tolist() == ([i // 4 for i in range(12)] if n_steps else list(range(12)))
    assert (seen[0].diff() < 0).any()  # in no order


@each_kind
def test_a_mask_leaves_variables_out(kind):
    model, x = make(kind)
    t, mask = torch.full((3,), 0.5), torch.tensor([[True, False, True, True]] * 3)
    each = model(x, t, seed=1, reduction="none")
    assert model(x, t, seed=1, mask=mask, reduction="sum").item() == pytest.approx(each[mask].sum().item(), rel=1e-5)
    each = model.reconstruction(x, seed=1, reduction="none")
    got = model.reconstruction(x, seed=1, mask=mask, reduction="sum").item()
    assert got == pytest.approx(each[mask].sum().item(), rel=1e-5)


def test_padding_is_neither_read_nor_shown():
    model, x = make("discrete")
    mask = torch.tensor([[True, False, True, True]] * 3)
    seen = []
    model.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0]))
    padded = x.where(mask, -100)
    for call in (model, model.reconstruction):
        assert call(padded, mask=mask, seed=1) == call(x, mask=mask, seed=1)
    assert all((theta[~mask] == 0.2).all() for theta in seen)


@each_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_module_takes_the_type_of_its_network(kind, dtype):
    """Losses have the type of the arithmetic, as those of ops do. States stay as fine as float32, since a message late
    in a run is smaller than the spacing of bfloat16."""
    (plain, x), (model, _) = make(kind), make(kind)
    model.to(dtype)
    seen = []
    model.network.register_forward_pre_hook(lambda network, inputs: seen.extend(inputs))
    wide = torch.promote_types(dtype, torch.float32)
    close = pytest.approx if dtype == torch.float64 else lambda value: pytest.approx(value, rel=0.05)
    for call in (lambda m: m(x, seed=1), lambda m: m(x, seed=1, n_steps=3), lambda m: m.reconstruction(x, seed=1)):
        loss = call(model)
        loss.backward()
        assert loss.dtype == wide and loss.item() == close(call(plain).item())
    assert all(p.grad.dtype == dtype for p in model.network.parameters())
    for sampler in ("ancestral", "ode2", "sde1"):
        watched = {}
        drawn = samplers.sample(model, (6, 7), 4, seed=2, sampler=sampler, watch=watched.__setitem__)
        assert drawn.shape == (6, 7) and drawn.dtype == (dtype if x.is_floating_point() else x.dtype)
        assert {state[0].dtype for state in watched.values()} == {wide}
    drawn, _ = samplers.sample_within(model, (6, 7), 0.5, seed=2)
    assert drawn.dtype == (dtype if x.is_floating_point() else x.dtype)
    assert {value.dtype for value in seen} == {dtype}


def test_the_type_of_a_network_without_parameters():
    """It is that of its buffers, or else torch's default type."""
    seen = []

    class Shifted(torch_nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.arange(3))
            self.register_buffer("shift", torch.tensor([0.5], dtype=torch.float64))

        def forward(self, theta, t):
            seen.extend([theta.dtype, t.dtype])
            return theta - self.shift

    x = torch.ones(2, 3, dtype=torch.int64)
    nn.Binary(Shifted(), beta_1=9.0)(x, seed=1)
    assert seen == [torch.float64] * 2
    nn.Binary(lambda theta, t: seen.extend([theta.dtype, t.dtype]) or theta, beta_1=9.0)(x, seed=1)
    assert seen[2:] == [torch.float32] * 2


def test_a_schedule_takes_the_place_of_a_number():
    for kind, number, other in (
        (nn.Continuous, {"sigma_1": 0.1}, ExponentialVariance(0.1)),
        (nn.Binary, {"beta_1": 3.0}, QuadraticAccuracy(3.0)),
    ):
        x = torch.zeros(2, 3) if kind is nn.Continuous else torch.zeros(2, 3, dtype=torch.int64)
        t = torch.tensor([0.2, 0.9])
        network = lambda theta, t: 0.5 - theta  # noqa: E731
        assert kind(network, **number)(x, t, seed=1) == kind(network, schedule=other)(x, t, seed=1)
        name = next(iter(number))
        for wrong in ({}, number | {"schedule": other}):
            with pytest.raises(ValueError, match=f"exactly one of {name} and schedule must be given, got {name}="):
                kind(network, **wrong)


def test_a_class_mask_of_a_model_is_logits_of_minus_infinity():
    """In its losses and in samplers, which never draw a masked class. A checkpoint does not have it."""
    mask = torch.tensor([True, False, True, True, False])
    model = nn.Discrete(Network(5, 5), beta_1=3.0, num_classes=5, class_mask=mask)
    inner = model.network
    wants = nn.Discrete(lambda theta, t: inner(theta, t).masked_fill(~mask, -torch.inf), beta_1=3.0, num_classes=5)
    x = torch.tensor([[0, 2, 3], [3, 3, 0]])
    for of in (model, wants):
        of.receiver = "factorised"
    for options in ({"t": torch.tensor([0.25, 0.5])}, {"t": torch.tensor([0.25, 0.5]), "n_steps": 4}):
        torch.testing.assert_close(model(x, seed=1, **options), wants(x, seed=1, **options))
    torch.testing.assert_close(model.reconstruction(x, seed=1), wants.reconstruction(x, seed=1))
    for sampler, choose in itertools.product(samplers.SAMPLERS, ("sample", "mode", "mean")):
        how = {"seed": 1, "sampler": sampler, "choose": choose}
        drawn, want = (samplers.sample(of, (50, 4), 3, **how) for of in (model, wants))
        assert torch.equal(drawn, want) and mask[drawn].all(), how
    drawn, want = (samplers.sample_within(of, (5, 4), 0.5, seed=1)[0] for of in (model, wants))
    assert torch.equal(drawn, want) and mask[drawn].all()
    assert not any("class_mask" in name for name in model.state_dict())


def test_frequencies_take_the_type_of_the_weight():
    model = nn.Vocabulary(torch_nn.Linear(6, 7), 0.1, num_classes=5, width=6, frequencies=torch.ones(5).double())
    assert model.weight().dtype == torch.float32


def test_a_model_with_frequencies_may_be_made_without_memory():
    """A loader of checkpoints makes a model on the meta device, and later gives it memory and values."""
    options = {"num_classes": 5, "width": 6}
    model = nn.Vocabulary(Network(6, 7), 0.1, frequencies=torch.arange(1.0, 6), **options)
    with torch.device("meta"):
        other = nn.Vocabulary(Network(6, 7), 0.1, frequencies=torch.ones(5), **options)
    other.to_empty(device="cpu").load_state_dict(model.state_dict())
    x = torch.arange(5).view(1, 5)
    assert torch.equal(other(x, seed=1), model(x, seed=1))


def test_a_large_vocabulary_has_no_other_receiver():
    model = nn.Vocabulary(torch_nn.Linear(6, 7), 0.1, num_classes=5, width=6)
    with (
        pytest.raises(ValueError, match=r"receiver must be one of \['joint'\], got 'factorised'"),
        model.using("factorised"),
    ):
        pass
    with model.using("joint"):
        assert model.receiver == "joint"


PUT_OUT = {
    "too many": lambda output: torch.cat([output, output], -1),
    "too few": lambda output: output[..., :-1],
    "another dimension": lambda output: output[..., None],
    "several": lambda output: (output, output),
    "nothing": lambda output: None,
    "integers": lambda output: output.long(),
}


class Changed(torch_nn.Module):
    """A network that puts out something else if it is told no condition."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, theta, t, cond=None):
        output = self.network(theta, t)
        return self.change(output) if cond is None else output


@pytest.mark.parametrize("kind", (*KINDS, "circular"))
def test_a_network_that_puts_out_something_else_is_named(kind):
    """By the loss, by the reconstruction loss and by samplers, with guidance, too."""
    if kind == "circular":
        model, x = nn.Circular(Network(2, 1), VonMisesAccuracy([0.5, 1.0])), torch.zeros(SHAPE)
    else:
        model, x = make(kind)
    network, t = model.network, torch.zeros(len(x))
    shape = tuple(model.output(model.flow(x, t, 1), t).shape)
    for wrong, change in PUT_OUT.items():
        model.network = Changed(network, change)
        kind = {"several": "tuple", "nothing": "NoneType", "integers": "torch.int64"}.get(wrong)
        allowed = f"tensor of shape {shape}, got " if kind is None else f"floating-point tensor, got {kind}"
        for call in (
            lambda: model(x),
            lambda: model.reconstruction(x),
            lambda: samplers.sample(model, SHAPE, 2),
            lambda: samplers.sample(model, SHAPE, 2, cond=1, guidance=0.5),
        ):
            with pytest.raises((ValueError, TypeError)) as caught:
                call()
            assert str(caught.value).startswith(f"network must return a {allowed}"), wrong


def test_a_subclass_with_arguments_of_its_own_takes_another_output():
    """Here the network returns the parameters of a mixture of two normals."""

    class Mixture(nn.Discretised):
        def arguments(self, output, theta):
            (_, _, *others), keywords = super().arguments(output, theta)
            mean, log_std, logits = output.unflatten(-1, (3, 2)).unbind(-2)
            return (mean, log_std, *others), {**keywords, "mixture_logits": logits}

    x = discretised.from_levels(torch.zeros(SHAPE, dtype=torch.int64), num_bins=8)
    model = Mixture(Network(1, 6), sigma_1=0.1, num_bins=8)
    assert model(x, seed=1).isfinite() and model.reconstruction(x, seed=1).isfinite()
