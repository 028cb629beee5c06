"""Code of the authors' form on the ops. `theirs` has the names and shapes of their module, and closed forms in float64;
with BFN_OFFICIAL=<a checkout of github.com/nnaisense/bayesian-flow-networks> their own code is compared too."""

import contextlib
import importlib
import os
import sys

import pytest
import torch
from torch import nn

from bfn_kernels import patch
from bfn_kernels.patch.bayesian_flow_networks import row_times
from tests.kernels.their_form import BETA_1, KINDS, S1, CategoricalFactory, Factory, Net, make, theirs

each_kind = pytest.mark.parametrize("kind", KINDS)


def closed_form(kind, data, output, params, t):
    """L∞ and the reconstruction of each variable, by their definitions in float64."""
    x, t, output = data.double().flatten(1), t.double().flatten(1), output.double().flatten(1, -2)
    if kind in ("binary", "classes"):
        p = torch.cat([-output, output], -1).div(2).softmax(-1) if kind == "binary" else output.softmax(-1)
        one_hot = nn.functional.one_hot(x.long(), p.shape[-1])
        l_inf = p.shape[-1] * BETA_1 * t * (one_hot - p).square().sum(-1)
        return l_inf, -(p * one_hot).sum(-1).log()
    mean = params[0].double().flatten(1)
    gamma = 1 - S1 ** (2 * t)
    scale = ((1 - gamma) / gamma).sqrt()
    predicted = mean / gamma - scale * output[..., 0]
    normal = lambda mean, std, edges: torch.special.ndtr((edges - mean[..., None]) / std[..., None])  # noqa: E731
    edges = torch.linspace(-1, 1, 17, dtype=torch.float64).clone()
    edges[0], edges[-1] = -torch.inf, torch.inf
    if kind == "reals":
        x_hat = predicted.clamp(-1, 1)
        std = torch.full_like(x_hat, 0.7 * S1)
    else:
        std = (scale * output[..., 1].exp()).clamp(1e-3, 10)
        x_hat = (normal(predicted, std, edges).diff(dim=-1) * ((torch.arange(16) + 0.5) / 8 - 1)).sum(-1)
        predicted = predicted if kind == "bins" else x_hat
    bins = normal(x_hat if kind == "reals" else predicted, std, edges).diff(dim=-1)
    index = ((x + 1) * 8).floor().long()[..., None]
    return -torch.tensor(S1).double().log() * (x - x_hat).square() / S1 ** (2 * t), -bins.gather(-1, index)[
        ..., 0
    ].log()


@each_kind
def test_losses_are_theirs(kind):
    module = theirs()
    bfn, data, t = make(module, kind)
    with patch.official(module):
        torch.manual_seed(1)
        params = bfn.bayesian_flow(data, t)
        assert params[0].shape == (data.shape if kind != "classes" else (*data.shape, 5))
        generator = torch.Generator().manual_seed(2)
        output = torch.randn(*data.shape, bfn.net.outputs, generator=generator) * 0.5
        got = bfn.loss.cts_time_loss(data, output, params, t)
        torch.testing.assert_close(got.double(), closed_form(kind, data, output, params, t)[0], rtol=2e-5, atol=1e-6)
        ones = torch.ones_like(t)
        params = bfn.bayesian_flow(data, ones)
        got = bfn.loss.reconstruction_loss(data, output * 0.01, params)
        want = closed_form(kind, data, output * 0.01, params, ones)[1]
        torch.testing.assert_close(got.double(), want, rtol=2e-4, atol=1e-5)
        each = bfn.loss.discrete_time_loss(data, output, params, (t * 20).floor() / 20, 20)
        assert each.shape == ((4, 6) if kind == "reals" else (4, 1)) and (each > 0).all()


@each_kind
def test_their_network_sees_in_sampling_what_theirs_would_show_it(kind):
    module = theirs()
    bfn, data, _ = make(module, kind)
    with patch.official(module):
        drawn = bfn.sample((7, 3, 2), 4)
    assert drawn.shape == (7, 3, 2) and drawn.dtype == data.dtype
    times = [t for _, t in bfn.net.seen]
    assert all(t.shape == (7, 3, 2) for t in times)
    assert [t.unique().tolist() for t in times] == [[0.0], [0.25], [0.5], [0.75], [1.0]]
    first, last = bfn.net.seen[0][0], bfn.net.seen[-1][0]
    if kind == "classes":
        assert first.shape == (7, 3, 2, 5) and (first == 0.2).all()
    else:
        assert (first == 0).all() and first.shape == ((7, 3, 2, 1) if kind == "binary" else (7, 3, 2))
    if kind == "binary":
        assert -1 <= last.min() < last.max() <= 1  # 2·theta_0 - 1
    assert not torch.equal(first, last)


@pytest.mark.parametrize(
    ("kind", "changes", "output", "state", "sample"),
    [  # what the network puts out, and the sizes of the last state and of the samples; None where they vary
        ("reals", {}, (-1e3,), 1, 1),
        ("reals", {"factory__clip_range": 3.0}, (-1e3,), 3, 3),
        ("reals", {"outer__min_t": 0.9}, (-1e3,), 0, 1),
        ("bins", {}, (-1e3, -9), 15 / 16, 15 / 16),
        ("bins", {"outer__min_t": 0.9, "factory__min_std_dev": 5.0}, (0.1, -9), None, 15 / 16),
        ("bins", {"factory__max_std_dev": 0.01}, (0.1, 9), None, None),
    ],
)
def test_samples_are_within_the_limits_of_their_factories(kind, changes, output, state, sample):
    """A state of 0 has received nothing but draws of 0, as it does before min_t; the mode of a wide normal is an end
    bin, of a narrow one its mean's."""
    module = theirs()
    bfn, _, _ = make(module, kind, **changes)
    seen = []

    def network(x, t):
        seen.append(x)
        return torch.tensor(output).expand(*x.shape, -1)

    bfn.net.forward = network
    torch.manual_seed(3)
    with patch.official(module):
        drawn = bfn.sample((50, 2), 4)
    if state is not None:
        torch.testing.assert_close(seen[-1].mean(), torch.tensor(float(state)), rtol=0.05, atol=0.02)
    if sample is None:
        assert (drawn.abs() < 0.5).any()
    else:
        torch.testing.assert_close(drawn.abs().mean(), torch.tensor(float(sample)), rtol=0, atol=1e-3)


def test_it_undoes_itself():
    module = theirs()
    before = {key: getattr(getattr(module, key[0]), key[1]) for key in patch.bayesian_flow_networks.REPLACED}
    bfn, data, t = make(module, "reals")
    undo = patch.official(module)
    assert all(getattr(getattr(module, cls), name) is not before[cls, name] for cls, name in before)
    undo.undo()
    assert all(getattr(getattr(module, cls), name) is before[cls, name] for cls, name in before)
    assert bfn.bayesian_flow(data, t) == "original flow" and bfn.sample((1, 2), 3) == "original samples"


def test_two_patches_are_undone_in_any_order():
    for first in (0, 1):
        module = theirs()
        before = module.CtsBayesianFlow.forward
        patches = [patch.official(module), patch.official(module)]
        patches.pop(first).undo()
        bfn, data, t = make(module, "reals")
        assert bfn.bayesian_flow(data, t) != "original flow"
        patches.pop().undo()
        assert module.CtsBayesianFlow.forward is before


def test_an_inherited_method_is_inherited_again():
    """Undoing a patch once left the method as an attribute of the class, which hid later changes of the base class."""

    class Base:
        def name(self):
            return "base"

    class Inherits(Base):
        pass

    for first in (0, 1):
        patches = [patch.Patch(), patch.Patch()]
        for number, each in enumerate(patches):
            each.replace(Inherits, "name", lambda original, self, number=number: f"{number} of {original(self)}")
        assert Inherits().name() == "1 of 0 of base" and Base().name() == "base"
        patches.pop(first).undo()
        assert Inherits().name() == f"{1 - first} of base"
        patches.pop().undo()
        assert "name" not in vars(Inherits) and Inherits().name() == "base"


@each_kind
def test_losses_take_the_arguments_of_theirs(kind):
    """As keywords, too, and the number of draws, by which only theirs would be another."""
    module = theirs()
    bfn, data, t = make(module, kind)
    t, output = (t * 20).floor() / 20, torch.zeros(*data.shape, bfn.net.outputs)
    named = {"data": data, "output_params": output, "input_params": (torch.zeros_like(t),)}
    for patched in (True, False):
        with patch.official(module) if patched else contextlib.nullcontext():
            want = bfn.loss.discrete_time_loss(*named.values(), t, 20)
            for got in (
                bfn.loss.discrete_time_loss(*named.values(), t, 20, 3),
                bfn.loss.discrete_time_loss(**named, t=t, n_steps=20, n_samples=3),
            ):
                assert torch.equal(got, want) if patched else got == want == "original loss"
            bfn.loss.cts_time_loss(**named, t=t)
            bfn.loss.reconstruction_loss(**named)


@pytest.mark.parametrize("changes", [{"flow__epsilon": 0.1}, {"flow__min_sqrt_beta": 0.1}])
@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_flows_with_other_ends_of_time_stay_theirs(kind, changes):
    module = theirs()
    bfn, data, t = make(module, kind, **changes)
    with patch.official(module):
        assert bfn.bayesian_flow(data, t) == "original flow"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("reals", {"outer__min_t": 0.0}),
        ("bins", {"factory__min_std_dev": 1e-9}),
        ("reals", {"loss__noise_pred": False}),
        ("bins", {"loss__min_loss_variance": 0.1}),
        ("reals", {"factory__clip_range": 0.0}),
        ("bins", {"factory__clip": False}),
        ("bins", {"factory__min_std_dev": -1}),
        ("binary", {"loss__distribution_factory": CategoricalFactory()}),
        ("classes", {"flow__discretize": True}),
        ("classes", {"loss__distribution_factory": Factory()}),
    ],
)
def test_what_the_ops_do_not_compute_stays_theirs(kind, changes):
    module = theirs()
    bfn, data, t = make(module, kind, **changes)
    with patch.official(module):
        for loss, more in (("cts_time_loss", [t]), ("discrete_time_loss", [t, 4]), ("reconstruction_loss", [])):
            assert getattr(bfn.loss, loss)(data, data[..., None], (data, None), *more) == "original loss"
        assert bfn.sample((1, 2), 3) == "original samples"
        if "flow__discretize" in changes:
            assert bfn.bayesian_flow(data, t) == "original flow"


def test_another_module_is_refused_and_left_as_it_was():
    module = theirs()
    before = module.CtsBayesianFlow.forward
    del module.BFN
    with pytest.raises(AttributeError, match="BFN"):
        patch.official(module)
    assert module.CtsBayesianFlow.forward is before


OFFICIAL = os.environ.get("BFN_OFFICIAL")
TRUE = {  # of each of their configurations: the flow, the factory of distributions, the outputs and the shape of data
    "mnist": (
        ("DiscreteBayesianFlow", {"n_classes": 2, "max_sqrt_beta": 3}),
        ("BernoulliFactory", {}),
        1,
        (8, 28, 28, 1),
    ),
    "text8": (
        ("DiscreteBayesianFlow", {"n_classes": 27, "max_sqrt_beta": 0.75}),
        ("CategoricalFactory", {}),
        27,
        (8, 64),
    ),
    **{
        f"cifar10_{kind}_{bins}": (("CtsBayesianFlow", {"min_variance": variance}), factory, outputs, (2, 32, 32, 3))
        for bins, variance in ((16, 1e-3), (256, 1e-6))
        for kind, factory, outputs in (
            ("continuous", ("DeltaFactory", {}), 1),
            ("discretized", ("DiscretizedNormalFactory", {"num_bins": bins}), 2),
        )
    },
}


@pytest.mark.skipif(OFFICIAL is None, reason="BFN_OFFICIAL names no checkout of the published code")
@pytest.mark.parametrize("name", TRUE)
def test_the_published_code_has_equal_losses_and_gradients(name, monkeypatch):
    monkeypatch.syspath_prepend(OFFICIAL)
    for other in ("model", "probability", "utils_model"):
        monkeypatch.delitem(sys.modules, other, raising=False)
    module, probability = importlib.import_module("model"), importlib.import_module("probability")
    (flow, settings), (factory, of), outputs, shape = TRUE[name]
    flow = getattr(module, flow)(**settings)
    loss = getattr(module, type(flow).__name__ + "Loss")(flow, getattr(probability, factory)(**of))
    generator = torch.Generator().manual_seed(0)
    if hasattr(flow, "n_classes"):
        data = torch.randint(flow.n_classes, shape, generator=generator)
        data = data.float() if flow.n_classes == 2 else data
    else:
        bins = int(name.rsplit("_", 1)[1])
        data = (torch.randint(bins, shape, generator=generator) + 0.5) * 2 / bins - 1
    bfn = module.BFN(Net(outputs), flow, loss)
    t = torch.rand(shape[0], generator=generator).clamp(min=0.02).view(-1, *[1] * (len(shape) - 1)).expand(shape)
    torch.manual_seed(1)
    params, last = flow(data, t), flow(data, torch.ones(shape))

    def results():
        found = []
        for params_of, make_loss in (
            (params, lambda o: loss.cts_time_loss(data, o, params, t)),
            (last, lambda o: loss.reconstruction_loss(data, o, last)),
        ):
            output = 0.1 * bfn.net(flow.params_to_net_inputs(params_of), t)
            output.retain_grad()
            make_loss(output).mean().backward()
            found += [make_loss(output).detach().flatten(1), output.grad]
        return found

    want = results()
    with patch.official(module):
        got = results()
        assert bfn.sample(shape, 3).shape == shape
    for ours, official in zip(got, want, strict=True):
        torch.testing.assert_close(ours, official, rtol=1e-3, atol=1e-5 * official.abs().max().item())


def test_times_that_are_equal_in_a_row_are_one():
    times = torch.tensor([[0.2, 0.2, 0.2], [0.7, 0.7, 0.7]])
    assert torch.equal(row_times(times), times[:, 0])
    times[1, 2] = 0.6
    assert torch.equal(row_times(times), times)
