"""Every setting of the published code reaches the ops: each method of theirs returns what an op does that is told the
same."""

import pytest
import torch

from bfn_kernels import Limits, binary, continuous, discrete, discretised, patch
from tests.kernels.their_form import KINDS, make, theirs

FAMILIES = {"reals": continuous, "bins": discretised, "binary": binary, "classes": discrete}
OPS = {  # of each method of theirs
    "forward": "flow_sample",
    "cts_time_loss": "continuous_time_loss",
    "discrete_time_loss": "discrete_time_loss",
    "reconstruction_loss": "reconstruction_loss",
}
SETTINGS = {  # of every setting of theirs a value that `make` does not have
    "reals": {"flow__min_variance": 0.01, "factory__clip_range": 2.0, "outer__min_t": 0.4},
    "bins": {
        "flow__min_variance": 0.01,
        "factory__num_bins": 8,
        "factory__min_std_dev": 0.9,
        "factory__max_std_dev": 0.2,
        "outer__min_t": 0.4,
    },
    "binary": {"flow__max_sqrt_beta": 1.5},
    "classes": {"flow__max_sqrt_beta": 1.5},
}
UNUSED = {("outer__min_t", "reconstruction_loss"), ("flow__max_sqrt_beta", "reconstruction_loss")}


def keywords(kind, method, flow, outer):
    """What an op is told in the place of their settings."""
    of = {"n_steps": 20} if method == "discrete_time_loss" else {}
    if kind in ("binary", "classes"):
        of |= {} if method == "reconstruction_loss" else {"beta_1": flow.max_sqrt_beta**2}
        of |= {"receiver": "factorised", "quadrature": 32} if method == "discrete_time_loss" else {}
        return of | ({"num_classes": 5} if kind == "classes" and method == "forward" else {})
    of["sigma_1"], inner = flow.min_variance**0.5, outer.data_dist_factory
    if method == "forward":
        return of
    if kind == "bins":
        limits = Limits(std=(inner.min_std_dev, inner.max_std_dev), t_min=outer.min_t)
        return of | {"num_bins": inner.num_bins, "limits": limits}
    of |= {"clip": (-inner.clip_range, inner.clip_range), "limits": Limits(t_min=outer.min_t)}
    if method == "reconstruction_loss":
        bins, wide = (16, 0.7) if flow.min_variance == 0.001 else (256, 1)  # as in their two experiments
        of |= {"num_bins": bins, "std": wide * of["sigma_1"]}
    return of


def both(kind, method, changes, dtype=torch.float32):
    """What the patched method returns for times and outputs of a type, and what the op does for float32."""
    module = theirs()
    bfn, data, t = make(module, kind, **changes)
    flow, loss = bfn.bayesian_flow, bfn.loss
    generator = torch.Generator().manual_seed(2)
    output = torch.randn(*data.shape, bfn.net.outputs, generator=generator)
    mean = torch.rand(data.shape, generator=generator) * 3 - 1.5
    t = (t * 20).floor() / 20
    arguments = {
        "reals": (output[..., 0], mean),
        "bins": (output, None, mean),
        "binary": (output[..., 0],),
        "classes": (output,),
    }[kind]
    x = data.long() if kind == "binary" else data
    of = keywords(kind, method, flow, loss.distribution_factory)
    op = getattr(continuous if method == "forward" and kind == "bins" else FAMILIES[kind], OPS[method])
    times = {} if method == "reconstruction_loss" else {"t": t[:, 0, 0]}
    steps = (20,) if method == "discrete_time_loss" else ()
    with patch.official(module):
        torch.manual_seed(3)
        if method == "forward":
            got = flow(data, t.to(dtype))[0]
            torch.manual_seed(3)
            want = op(x, **times, **of)
            return got, 1 - want if kind == "binary" else want
        got = getattr(loss, method)(data, output.to(dtype), (mean,), *[t.to(dtype) for _ in times], *steps)
    want = op(x, *arguments, **times, **of, reduction="none").flatten(1)
    return got, want.mean(1, keepdim=True) if steps and kind != "reals" else want


@pytest.mark.parametrize("method", OPS)
@pytest.mark.parametrize(("kind", "setting"), [(kind, each) for kind in KINDS for each in ["", *SETTINGS[kind]]])
def test_every_setting_of_theirs_reaches_the_ops(kind, setting, method):
    """A setting that changes nothing was not passed on."""
    got, want = both(kind, method, {setting: SETTINGS[kind][setting]} if setting else {})
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    if setting:
        unused = (setting, method) in UNUSED or (method == "forward" and not setting.startswith("flow__"))
        assert torch.equal(got, both(kind, method, {})[0]) == unused


@pytest.mark.parametrize("method", OPS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_type_of_times_and_outputs_does_not_matter(kind, method):
    got, want = both(kind, method, {}, torch.float64)
    assert got.dtype == want.dtype and torch.equal(got, want)
