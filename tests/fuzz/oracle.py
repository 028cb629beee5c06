"""What a call must give: what the reference gives in float64 on contiguous copies, as exactly as in tests/kernels."""

import torch
from calls import Call, Plan
from support import error, scale, ulp, weights_like
from torch import Tensor

ERRORS = (ValueError, TypeError, IndexError, RuntimeError)
FLOAT64, FLOAT64_FLOOR = 1e-9, 1e-11  # where the yardstick itself is rounded, and autograd through it cancels
FAR = 2e-5  # of a gradient where a loss is 4e10, as in tests/kernels
OTHER_NUMBERS = 6
SLACK = 4  # tests/kernels measure how exact an op is; rare inputs, which are looked for here, may be worse
ANSWERS_BY_NAN = ("cuda_on_host", "triton")  # for values out of range, or does not look, as on a GPU
HUGE = 1e20  # where the reference overflows another may not


def outcome(call: Call, inputs: dict, backend: str) -> dict[str, Tensor] | Exception:
    """The result and its gradients, or the error; that of the layout's own gradient too."""
    inputs = {k: v.detach().requires_grad_() if k in call.leaves else v for k, v in inputs.items()}
    try:
        result = call.case(inputs, backend)
    except ERRORS as raised:
        return raised
    found = {"result": result.detach()}
    if call.leaves:
        weights = weights_like(result).to(result.dtype)
        grads = torch.autograd.grad(result, [inputs[k] for k in call.leaves], weights)
        found |= dict(zip(call.leaves, grads, strict=True))
    return found


def _yardsticks(call: Call) -> tuple:
    """The reference's outcome in the call's own types, and in float64."""
    return tuple(outcome(call, call.contiguous(dtype), "reference") for dtype in (None, torch.float64))


def _spread(touched: Tensor, value: Tensor) -> Tensor:
    """Where numbers of `value` come of touched variables: all of them, in what is reduced."""
    shape = touched.shape
    if value.shape[: len(shape)] == shape and value.dim() >= len(shape):
        return touched.reshape(*shape, *(1,) * (value.dim() - len(shape))).expand(value.shape)
    return touched.any().expand(value.shape)


def _split(touched: Tensor, *values: Tensor) -> list[list[Tensor]]:
    """The untouched numbers of each, and the touched."""
    where = _spread(touched, values[0])
    return [[v[~where] for v in values], [v[where] for v in values]]


def allowed(got: Tensor, plain: Tensor, want: Tensor) -> tuple[float, float]:
    """The error, and how large it may be."""
    size = scale(want)
    if got.dtype == torch.float64:
        return error(got, want), FLOAT64 * size + FLOAT64_FLOOR
    return error(got, want), SLACK * max(2 * error(plain, want), 4 * ulp(got.dtype, size))


def _comparable(values: list[Tensor], finite: bool) -> list[Tensor]:
    """Of touched numbers those on which the reference agrees with itself: finite in both types, or in neither, where
    no number may take their place. What is made of infinite or missing numbers may be missing, too."""
    got, plain, want = values
    narrow = want.to(plain.dtype)
    off = ~plain.isfinite() & ~narrow.isfinite()
    hidden = off & (got.abs() < torch.where(plain.isnan() & narrow.isnan(), torch.inf, HUGE))
    assert not hidden.any(), f"a number in the place of NaN or infinity: {got[hidden]}"
    kept = plain.isfinite() & narrow.isfinite() & (got.isfinite() | finite)
    return [v[kept] for v in (got, plain, want)]


def check(call: Call, backend: str) -> None:
    plain, want = _yardsticks(call)
    got = outcome(call, call.inputs, backend)
    if isinstance(plain, ValueError) and backend in ANSWERS_BY_NAN and "must lie in" in str(plain):
        return  # a value out of range, at which it does not look
    if isinstance(plain, Exception):
        assert type(got) is type(plain), f"the reference says {plain!r}, and this is {got!r}"
        return
    if isinstance(got, ValueError) and call.touched.any() and any(k in str(got) for k in call.inputs):
        return  # extreme values may be refused, by name
    if isinstance(got, Exception):
        raise AssertionError("the reference has a result") from got
    for name, value in got.items():
        assert value.dtype == plain[name].dtype, f"{name} is {value.dtype} in the place of {plain[name].dtype}"
        assert value.shape == plain[name].shape, f"{name} has the shape {value.shape}, not {plain[name].shape}"
        untouched, touched = _split(call.touched, value, plain[name], want[name])
        kinds = {"": untouched}
        if name == "result":  # a gradient at such places says little
            kinds["touched "] = _comparable(touched, call.plan.extreme == "finite")
        for kind, values in kinds.items():
            off, most = allowed(*values)
            if name != "result" and call.case.hard:
                most = max(most, FAR * scale(values[2]))
            if kind:
                most = max(most, SLACK * ulp(value.dtype, 1.0))  # of a difference that is 0, say
            if off <= most:
                continue
            # of few numbers plain arithmetic may by luck have no error at all: others of the same call say what it has
            most = max(most, *(_other(call.plan.again(n), name) for n in range(1, OTHER_NUMBERS)))
            assert off <= most, f"{kind}{name}: error {off:.3g}, allowed {most:.3g}\n{values[0]}\n{values[2]}"


def _other(plan: Plan, name: str) -> float:
    """What other numbers of the call would be allowed."""
    call = plan.make()
    plain, want = _yardsticks(call)
    if isinstance(plain, Exception):
        return 0.0
    split = _split(call.touched, plain[name], plain[name], want[name])
    kept = (tuple(v[values[0].isfinite() & values[2].isfinite()] for v in values) for values in split)
    return max(allowed(*values)[1] for values in kept)
