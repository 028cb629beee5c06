"""Compares the result of a call with that of the reference in float64 on contiguous copies, as tests/kernels do."""

import torch
from torch import Tensor

from tests.fuzz.drawn_calls import Call, Plan
from tests.kernels.support import error, evaluate, scale, ulp
from tests.kernels.yardstick import FACTOR, LEAST, Rounded

ERRORS = (ValueError, TypeError, IndexError, RuntimeError)
FLOAT64, FLOAT64_FLOOR = 1e-9, 1e-11  # allowed in float64, in which the reference itself has rounding errors
FAR = 2e-5  # the relative error allowed of a gradient if the loss is 4e10, as in tests/kernels
OTHER_NUMBERS = 6
SLACK = 4  # the factor by which the rare inputs that the fuzz looks for may be less accurate than tests/kernels allow
ANSWERS_BY_NAN = ("cuda_on_host", "triton")  # these return NaN for values out of range, or ignore them, as a GPU does
RANGES = ("must lie in", "must be positive")  # what errors say of these values
HUGE = 1e20  # if the reference overflows, a backend may instead return numbers larger than this


def outcome(call: Call, inputs: dict, backend: str) -> dict[str, Tensor] | Exception:
    """The result of a call and its gradients, or the error that it raised."""
    try:
        return evaluate(call.case, inputs, backend)
    except ERRORS as raised:
        return raised


def _yardsticks(call: Call) -> tuple:
    """The outcome of the reference in the types of the call, with each operation rounded once, and in float64."""
    with Rounded():
        rounded = outcome(call, call.contiguous(None), "reference")
    return rounded, outcome(call, call.contiguous(torch.float64), "reference")


def _spread(touched: Tensor, value: Tensor) -> Tensor:
    """Where the numbers of `value` depend on touched variables; after a reduction all of them may."""
    shape = touched.shape
    if value.shape[: len(shape)] == shape and value.dim() >= len(shape):
        return touched.reshape(*shape, *(1,) * (value.dim() - len(shape))).expand(value.shape)
    return touched.any().expand(value.shape)


def _split(touched: Tensor, *values: Tensor) -> list[list[Tensor]]:
    """The untouched numbers of each value, then the touched ones."""
    where = _spread(touched, values[0])
    return [[v[~where] for v in values], [v[where] for v in values]]


def allowed(got: Tensor, rounded: Tensor, want: Tensor) -> tuple[float, float]:
    """The error, and the largest one that is allowed."""
    size = scale(want)
    if got.dtype == torch.float64:
        return error(got, want), FLOAT64 * size + FLOAT64_FLOOR
    return error(got, want), SLACK * max(FACTOR * error(rounded, want), LEAST * ulp(got.dtype, size))


def _comparable(values: list[Tensor], finite: bool) -> list[Tensor]:
    """The touched numbers that can be compared: those that the reference finds finite in both types. Where it finds
    none in either type, the call must not return an ordinary number. If the extreme values are not finite, NaN is
    accepted."""
    got, rounded, want = values
    narrow = want.to(rounded.dtype)
    off = ~rounded.isfinite() & ~narrow.isfinite()
    hidden = off & (got.abs() < torch.where(rounded.isnan() & narrow.isnan(), torch.inf, HUGE))
    assert not hidden.any(), f"a number in the place of NaN or infinity: {got[hidden]}"
    comparable = rounded.isfinite() & narrow.isfinite() & (got.isfinite() | finite)
    return [v[comparable] for v in (got, rounded, want)]


def check(call: Call, backend: str) -> None:
    rounded, want = _yardsticks(call)
    got = outcome(call, call.inputs, backend)
    outside = isinstance(rounded, ValueError) and any(text in str(rounded) for text in RANGES)
    if outside and backend in ANSWERS_BY_NAN:
        return  # this backend does not look for values out of range
    if isinstance(rounded, Exception):
        assert type(got) is type(rounded), f"the reference says {rounded!r}, and this is {got!r}"
        return
    if isinstance(got, ValueError) and call.touched.any() and any(k in str(got) for k in call.inputs):
        return  # an extreme value may be refused, by a message that names the argument
    if isinstance(got, Exception):
        raise AssertionError("the reference has a result") from got
    for name, value in got.items():
        assert value.dtype == rounded[name].dtype, f"{name} is {value.dtype} in the place of {rounded[name].dtype}"
        assert value.shape == rounded[name].shape, f"{name} has the shape {value.shape}, not {rounded[name].shape}"
        untouched, touched = _split(call.touched, value, rounded[name], want[name])
        kinds = {"": untouched}
        if name == "result":  # gradients at extreme values say little
            kinds["touched "] = _comparable(touched, call.plan.extreme == "finite")
        for kind, values in kinds.items():
            off, most = allowed(*values)
            if name != "result" and call.case.hard:
                most = max(most, FAR * scale(values[2]))
            if kind:
                most = max(most, SLACK * ulp(value.dtype, 1.0))  # for a difference that is 0, for example
            if off <= most:
                continue
            # with few numbers the formula may have no rounding error by luck, so other numbers are tried for the
            # limit
            most = max(most, *(_other(call.plan.again(n), name) for n in range(1, OTHER_NUMBERS)))
            assert off <= most, f"{kind}{name}: error {off:.3g}, allowed {most:.3g}\n{values[0]}\n{values[2]}"


def _other(plan: Plan, name: str) -> float:
    """The error that would be allowed for the same call with other numbers."""
    call = plan.make()
    rounded, want = _yardsticks(call)
    if isinstance(rounded, Exception):
        return 0.0
    split = _split(call.touched, rounded[name], rounded[name], want[name])
    finite = (tuple(v[values[0].isfinite() & values[2].isfinite()] for v in values) for values in split)
    return max(allowed(*values)[1] for values in finite)
