"""Each backend against the float64 reference on the same rounded inputs, results and gradients.

Allowed: FACTOR times the error of the formula in that type, which yardstick.py measures, or LEAST ulp of the result's
scale, whichever is larger.
"""

from functools import partial

import pytest
import torch

from bfn_kernels import continuous
from tests.kernels.op_cases import CASES
from tests.kernels.support import (
    DTYPES,
    INTERPRETED,
    NATIVE,
    ON_CPU,
    error,
    evaluate,
    joins,
    named,
    pairs,
    scale,
    ulp,
    widened,
)
from tests.kernels.yardstick import FACTOR, LEAST, check_errors, errors

SHAPES = [(3, 7), (2, 1), (5, 33), (4, 3, 5), (0, 4), (2, 0)]
# In float64 the yardstick is itself rounded, and autograd through it cancels: where p_x -> 1 its gradients keep an
# absolute error of 1e-14, and at means of ±300 with std 1e-3, where ln p is 4e10, a relative one of 1e-5.
FLOAT64, FLOAT64_FLOOR, FLOAT64_FAR = 1e-11, 1e-13, 2e-5


def check(case, batches, backend) -> None:
    """The batches count as one: of a single number, a formula may by luck have no error at all. Gradients of a mean are
    small in large batches. So they are compared once more as gradients of the sum, of which 10 ulp are allowed."""
    off, least, formulas, types = Worst(case), Worst(case), [], {}
    for inputs in batches:
        want = evaluate(case, widened(inputs), "reference")
        formula = partial(evaluate, case, inputs, "reference")
        types = types or {name: value.dtype for name, value in formula().items()}
        for name, value in evaluate(case, inputs, backend).items():
            assert value.dtype == types[name], f"{name}: {value.dtype} in the place of {types[name]}"
            off.add(name, error(value, want[name]), inputs)
            least.add(name, always_allowed(case, name, value.dtype, scale(want[name])), inputs, 10 / LEAST)
        formulas.append(errors(formula, want))

    def losses():
        for of_batches in zip(*formulas, strict=True):
            allowed = Worst(case)
            for inputs, loses in zip(batches, of_batches, strict=True):
                for name, most in loses.items():
                    allowed.add(name, FACTOR * most, inputs)
            yield allowed

    narrow = all(x.dtype != torch.float64 for inputs in batches for x in inputs.values() if torch.is_tensor(x))
    check_errors(off, least, losses() if narrow else ())


class Worst(dict[str, float]):
    """The largest number of all batches, for each result and gradient of a case. If the case is a mean over variables,
    it has a second number for each gradient: the largest one for the gradient of their sum."""

    def __init__(self, case):
        self.case = case
        self.of_mean = case.loss and case.options.get("reduction", "mean") == "mean"

    def add(self, name: str, number: float, inputs: dict, factor_of_sum: float = 1.0) -> None:
        self[name] = max(self.get(name, 0.0), number)
        if self.of_mean and name != "result":
            of_sum = f"{name} of the sum"
            self[of_sum] = max(self.get(of_sum, 0.0), factor_of_sum * number * self.case.count(inputs))


def always_allowed(case, name: str, dtype: torch.dtype, size: float) -> float:
    """The error of a result of this size that is always allowed. A larger one never is in float64, the type of the
    yardstick."""
    if dtype != torch.float64:
        return LEAST * ulp(dtype, size)
    far = name != "result" and case.hard and case.op.split(".")[1] in ("log_prob", "reconstruction_loss")
    return (FLOAT64_FAR if far else FLOAT64) * size + FLOAT64_FLOOR


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pairs(NATIVE)
def test_agrees_with_the_float64_reference(case, backend, dtype):
    few = SHAPES[:3] + SHAPES[4:]
    shapes = SHAPES[:2] if case.long else SHAPES if dtype in (torch.float32, torch.bfloat16) else few
    if INTERPRETED:
        if dtype == torch.float64 and case.huge and case.family == "discretised":
            pytest.skip("the interpreter takes a minute for 4095 edges, one after the other")
        shapes = shapes[:2] if dtype != torch.float32 else [s for s in shapes if s != (5, 33)]
    check(case, [case.inputs(shape, dtype, seed) for seed, shape in enumerate(shapes)], backend)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if not case.alike], ids=str)
def test_reference_in_a_narrow_type(case, dtype):
    """The reference loses little itself: of a result or gradient of ordinary size no
    more than 2.4e-4 of it beside the rounding of the type, and the rounding of the terms of order n that it sums."""
    relative = 2.4e-4
    floor = 16 * torch.finfo(torch.float32).eps * max(4, case.options.get("n_steps", 0))
    for seed, shape in enumerate(SHAPES[: 1 if case.huge else 2]):
        inputs = case.inputs(shape, dtype, seed)
        want, got = evaluate(case, widened(inputs), "reference"), evaluate(case, inputs, "reference")
        for name, value in got.items():
            assert value.dtype in (dtype, torch.float32)
            most = (relative + 2 * torch.finfo(value.dtype).eps) * scale(want[name]) + floor
            assert error(value, want[name]) <= most, f"{name}: {error(value, want[name]):.3g}, allowed {most:.3g}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", NATIVE)
def test_narrow_types_are_read_and_rounded_as_by_torch(backend, dtype):
    """Every number of 16 bits; and float32 ones down to where they round to 0, halfway between two narrow ones too.
    Subnormal numbers of bfloat16, which are those of float32, may be flushed to 0."""
    every = torch.arange(2**16).to(torch.int16).view(dtype).unsqueeze(0)
    read, _ = continuous.bayesian_update(every.float(), 0.0, every, 1.0, backend=backend)
    flushed = torch.finfo(dtype).smallest_normal if dtype == torch.bfloat16 else 0.0
    assert error(read, torch.where(every.isfinite(), every.double(), torch.nan)) <= flushed  # 0 times infinity is NaN
    first, last = (torch.tensor(x).view(torch.int32).item() for x in (2.0**-26, 2.0**17))
    halfway = torch.arange(first, last, 2**11, dtype=torch.int32)
    wide = torch.cat([halfway + i for i in (-1, 0, 1)]).view(torch.float32).unsqueeze(0)
    for x in (wide, -wide, torch.tensor([[torch.inf, torch.nan, 1e38, 1e-30, 0.0, -0.0]])):
        rounded, _ = continuous.bayesian_update(torch.zeros_like(x, dtype=dtype), 0.0, x, 1.0, backend=backend)
        assert torch.equal(rounded.nan_to_num(7), x.to(dtype).nan_to_num(7))


FORMS = ("strided", "transposed", "offset", "expanded", "windows", "channels_last")


def laid_out(inputs, form):
    """The inputs with every tensor that has dimensions in other strides: the same numbers or, in the two forms whose
    rows share memory, other numbers. A tensor that has too few dimensions for the form is left as it is."""
    tensors = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor) and v.dim()}
    return inputs | {k: _laid_out(v, form) for k, v in tensors.items()}


def _laid_out(x, form):
    if form == "strided":
        return torch.stack([x, x], -1)[..., 0]
    if form == "transposed" and x.dim() > 1:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if form == "offset":
        return torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape)
    if form == "expanded":
        return x[:1].expand(x.shape)
    if form == "windows":  # of a text: each row begins one number after the row before it
        return x.as_strided(x.shape, (1, *x.stride()[1:]))
    if form == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x


@pairs(ON_CPU, lambda case: joins(case) and not case.long)
def test_strided_inputs(case, backend):
    given = case.inputs((2, 3, 2, 5), torch.float32)
    same = evaluate(case, given, backend)
    for form in FORMS:
        if INTERPRETED and form == "offset":
            continue  # a kernel of Triton gets the address of the first element
        if backend == "reference" and form == "windows":
            continue  # torch adds up such rows in another order
        inputs, want = laid_out(given, form), same
        if form in ("expanded", "windows"):
            dense = {k: v.contiguous() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
            want = evaluate(case, dense, backend)
        for name, value in evaluate(case, inputs, backend).items():
            most = 4 * ulp(value.dtype, scale(want[name]))
            assert error(value, want[name]) <= most, f"{form} {name}"


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("name", ["continuous.flow_sample", "continuous.sender_sample", "continuous.update_sample"])
def test_a_dense_memory_format_is_kept(name, backend):
    inputs = named(name).inputs((2, 3, 4, 5), torch.float32)
    for key in ("x", "mean", "noise"):
        if key in inputs:
            inputs[key] = inputs[key].contiguous(memory_format=torch.channels_last)
    assert named(name)(inputs, backend).is_contiguous(memory_format=torch.channels_last)


@pairs(ON_CPU, lambda case: "t" in case.fields and not case.huge and joins(case))
def test_forms_of_t(case, backend):
    """A number, [B], [B, 1], [B, L] and a trailing 1 all say the same."""
    inputs = case.inputs((3, 4), torch.float32)
    t = 2 / case.options.get("n_steps", 5)  # a time at which a step starts, if there are steps
    forms = [t, torch.tensor(t), torch.full((3,), t), torch.full((3, 1), t), torch.full((3, 4), t)]
    if INTERPRETED:  # for all backends one number is a tensor, and [B, 1] is [B]
        forms = [t, *forms[2::2]]
    results = [case(inputs | {"t": form}, backend) for form in forms]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=2e-6, atol=1e-6 * scale(results[0]) + 1e-30, equal_nan=True)
