"""NaN and infinities: no backend hides them, and the reference, which is the specification, does not either."""

import dataclasses
import itertools
import math

import pytest
import torch

from bfn_kernels import discrete, discretised
from tests.kernels.case import ROWS
from tests.kernels.op_cases import CASES
from tests.kernels.support import INTERPRETED, NATIVE, ON_CPU, evaluate, joins, pairs
from tests.kernels.test_masked_classes import SIZED, losses

pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # NumPy's, in Triton's interpreter
inf, nan = torch.inf, torch.nan
HAS_RANGE = {case.op for case in CASES if case.family != "discrete" and "x" in case.fields} - {
    f"continuous.{op}" for op in ("flow_sample", "sender_sample", "update_sample")
}


@pairs(NATIVE, lambda c: joins(c) and not {"mask", "known"} & set(c.fields) and not c.long)
def test_what_is_no_number_stays_none(case, backend):
    """Three variables of one input are bad at a time; where the reference's result is NaN, the backend's must be
    too. Numbers of rows that are out of range are errors, which other tests are about."""
    if case.loss:
        case = dataclasses.replace(case, options={**case.options, "reduction": "none"})
    inputs = case.inputs((3, 4), torch.float32)
    spoilt = [k for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.is_floating_point() and k not in ROWS]
    for name in spoilt:
        value = inputs[name].clone()
        bad = (nan, inf, -inf)
        if name == "x" and case.op in HAS_RANGE and case.options.get("clip", True) is not None:
            bad = (nan, nan, nan)  # infinite data are out of range, of which other tests are
        elif name in ("std", "concentration"):
            bad = (nan, inf, inf)  # none is negative
        value.view(-1)[:: value.numel() // 3][:3] = torch.tensor(bad)
        want, got = (case(inputs | {name: value}, b) for b in ("reference", backend))
        assert (got.isnan() | ~want.isnan()).all(), name
        if name.endswith("logits") or all(number != number for number in bad):
            assert (want.isnan() | ~got.isnan()).all(), name


@pairs(NATIVE, lambda c: joins(c) and c.family == "discrete" and "logits" in c.diff and not c.long)
def test_gradients_at_an_excluded_class_and_at_nan(case, backend):
    """The first row has a logit of −∞ that does not belong to x, the second one of NaN; the others have neither."""
    inputs = case.inputs((3, 4), torch.float32)
    logits, x = inputs["logits"].clone(), inputs.get("x")
    rows = logits.flatten(0, -2)
    excluded = 0 if x is None else int(x.flatten()[0] == 0)
    rows[0, excluded], rows[1, -1] = -inf, nan
    inputs["logits"] = logits
    want, got = (evaluate(case, inputs, b)["logits"].flatten(0, -2) for b in ("reference", backend))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)


SPECIAL = [  # logits of the first class, of one in the middle and of the last, and NaN if p is NaN then
    ((nan, 0, 0), nan),
    ((0, nan, -inf), nan),
    ((0, 0, nan), nan),
    ((inf, 0, 0), nan),
    ((0, -inf, inf), nan),
    ((inf, inf, 0), nan),
    ((nan, inf, nan), nan),
    ((-inf, 0, 1), 0),
    ((3e38, 0, -3e38), 0),
]


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("num_classes", [3, 100, 4100] if INTERPRETED else [3, 17, 100, 1030, 4100])
def test_what_a_row_without_probabilities_sends(num_classes, backend):
    """Such a row gives NaN whatever is chosen, and the rows next to it send what they would send alone."""
    z = torch.full((len(SPECIAL) + 2, num_classes), -1.0)
    for row, (logits, _) in zip(z, SPECIAL, strict=False):
        row[0], row[num_classes // 2], row[-1] = logits
    z[-2:] = torch.tensor([[nan], [-inf]])
    bad = torch.tensor([value != value for _, value in SPECIAL] + [True, True])
    theta = discrete.theta(z, backend=backend)
    assert torch.equal(theta.isnan().any(-1), bad)
    torch.testing.assert_close(theta, z.softmax(-1), rtol=1e-5, atol=1e-7, equal_nan=True)
    zero, u = torch.zeros_like(z), torch.full(z.shape[:1], 0.6)
    for choose in ("sample", "mode", "mean"):
        draw = {"draw_noise": u} if choose == "sample" else {}
        call = lambda b, choose=choose, draw=draw: discrete.update_sample(  # noqa: E731
            z, zero, 0.1 / num_classes, choose=choose, noise=zero, backend=b, **draw
        )
        got = call(backend)
        assert torch.equal(got.isnan().all(-1), bad) and torch.equal(got.isnan().any(-1), bad), choose
        torch.testing.assert_close(got, call("reference"), rtol=1e-5, atol=1e-6, equal_nan=True)


WITHOUT_SHARES = {
    1: [[nan], [inf], [-inf]],
    3: [[nan, 0, 0], [0, 0, nan], [inf, 0, 0], [0, 0, inf], [-inf, -inf, -inf]],
}


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("components", WITHOUT_SHARES)
def test_what_a_mixture_without_shares_gives(components, backend):
    """The result is NaN, however the value is chosen and whatever uniform draws a component."""
    w = torch.tensor(WITHOUT_SHARES[components]).repeat(2, 1)
    mean, std = torch.zeros_like(w), torch.ones_like(w)
    zero, u = torch.zeros(len(w)), torch.linspace(0.01, 0.99, len(w))
    shared = {"num_bins": 4, "mixture_logits": w, "backend": backend}
    assert discretised.sample(mean, std, noise=zero, component_noise=u, **shared).isnan().all()
    assert discretised.mode(mean, std, **shared).isnan().all()
    assert discretised.expected_value(mean, std, **shared).isnan().all()
    for choose in ("sample", "mode", "mean"):
        draw = {"draw_noise": zero, "component_noise": u} if choose == "sample" else {}
        new, _ = discretised.update_sample(
            mean,
            std,
            zero,
            1.0,
            0.5,
            2.0,
            sigma_1=0.1,
            parametrisation="data",
            choose=choose,
            noise=zero,
            **draw,
            **shared,
        )
        assert new.isnan().all(), choose


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("components", [None, 3])
@pytest.mark.parametrize("num_bins", [5, pytest.param(200, marks=[pytest.mark.slow] * INTERPRETED)])
def test_a_normal_without_probabilities(num_bins, components, backend):
    """If a mean of any component is NaN or infinite, or a std is NaN, no bin has a probability, and nothing that is
    computed from probabilities is a number. This holds for a std of each rule of the sums over bins."""
    shape = (4,) if components is None else (4 * components, components)
    each = torch.arange(shape[0])
    at = (each,) if components is None else (each, each % components)
    std = torch.tensor([1e-3, 0.3, 1.0, 5.0]).repeat_interleave(components or 1)
    for name, bad in (("mean", nan), ("mean", inf), ("mean", -inf), ("std", nan)):
        normals = {"mean": torch.full(shape, 0.3), "std": (std if components is None else std[:, None]).expand(shape)}
        normals[name] = normals[name].clone()
        normals[name][at] = bad
        more = {"num_bins": num_bins, "backend": backend}
        more |= {} if components is None else {"mixture_logits": torch.zeros(shape)}
        assert discretised.mode(**normals, **more).isnan().all(), (name, bad)
        for clip, index in itertools.product((True, False), (0, 1, num_bins - 1)):
            x = torch.full(shape[:1], (2 * index + 1) / num_bins - 1)
            assert discretised.log_prob(x, **normals, clip=clip, **more).isnan().all(), (name, bad, clip, index)
            assert discretised.expected_value(**normals, clip=clip, **more).isnan().all(), (name, bad, clip)
        if components is None and name == "mean" and bad in (inf, -inf):
            end = torch.full(shape, math.copysign(1 - 1 / num_bins, bad))
            torch.testing.assert_close(discretised.sample(**normals, seed=1, **more), end)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize(("name", "num_classes"), SIZED)
def test_what_a_row_without_probabilities_costs(name, num_classes, backend):
    """NaN, whichever class is the right one."""
    z = torch.full((8, num_classes), -1.0)
    z[:2, 0], z[2:4, -1], z[4:6, 0], z[6:] = nan, nan, inf, -inf
    x = torch.tensor([0, 1] * 4)
    loss, gradient = losses(name, x, z, 6.0, backend)
    assert loss.isnan().all() and gradient.isnan().any(-1).all(), (loss, gradient)
