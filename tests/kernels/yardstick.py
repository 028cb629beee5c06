"""The yardstick of the tests of accuracy: how much a formula loses in float32.

PyTorch computes float32 functions by another library on each kind of processor, so the error of the reference in
float32 is another one, too. Here each operation runs in float64, and its result is rounded to float32 once. The error
that remains belongs to the formula. `python -m tests.kernels.yardstick` prints it for all cases.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.case import Case
from tests.kernels.op_cases import CASES
from tests.kernels.support import error, evaluate, scale, ulp, widened

aten = torch.ops.aten
Results = dict[str, Tensor] | Sequence[Tensor]

# A backend may lose three times what the formula loses. A function that is rounded once is off by half an ulp; one of a
# float32 library is off by up to an ulp, which is twice as much. Another order of the operations may lose the rest.
FACTOR = 3
LEAST = 4  # an error of this many ulp of the result's scale is always allowed

# Torch computes each of these by one kernel, within which a float32 program rounds several times.
_COMPOSED = get_decompositions(
    [
        aten._softmax,
        aten._log_softmax,
        aten._softmax_backward_data,
        aten._log_softmax_backward_data,
        aten.logsumexp,
        aten.addmm,
        aten.mean,
        aten.addcmul,
        aten.lerp,
    ]
)


class RoundedOnce(TorchDispatchMode):
    """Computes every operation of float32 tensors in float64, and rounds its result to float32.

    The order of a sum is a part of the formula. `sum` adds the two halves of the numbers until one number is left. A
    product of matrices adds its terms one after the other.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not _computes_in_float32(function, [*_tensors(args), *_tensors(kwargs.values())]):
            return function(*args, **kwargs)
        if function in _COMPOSED:
            with self:
                return _COMPOSED[function](*args, **kwargs)
        if function in _SUMS:
            return _SUMS[function](*args, **kwargs)
        wide = {name: _widened(value) for name, value in kwargs.items()}
        return _rounded(function(*_widened(args), **wide))


def rounded_once(case: Case, inputs: dict) -> dict[str, Tensor]:
    """The result and the gradients of the reference, each operation of which is rounded to float32 once."""
    with RoundedOnce():
        return evaluate(case, inputs, "reference")


def check_close(got: Results, want: Results, formula: Callable[[], Results], also: float = 0.0) -> None:
    """Checks results of a narrow type against the same results in float64.

    formula: computes the results in the narrow type by the reference. It is called under `RoundedOnce`, and only if an
    error is larger than LEAST ulp. also: a further error that is allowed, relative to the scale of a result.
    """
    got, want = dict(_named(got)), dict(_named(want))
    off = {name: error(value, want[name]) for name, value in got.items()}
    more = {name: also * scale(want[name]) for name in got}
    least = {name: LEAST * ulp(value.dtype, scale(want[name])) for name, value in got.items()}
    if all(off[name] <= least[name] + more[name] for name in got):
        return
    with RoundedOnce():
        rounded = dict(_named(formula()))
    for name, found in off.items():
        allowed = max(least[name], FACTOR * error(rounded[name], want[name])) + more[name]
        assert found <= allowed, f"{name}: error {found:.3g}, allowed {allowed:.3g}"


def _named(results: Results) -> Iterable[tuple[Any, Tensor]]:
    return results.items() if isinstance(results, dict) else enumerate(results)


def _tensors(values: Iterable) -> Iterator[Tensor]:
    """The tensors among the arguments of an operation, some of which are lists of tensors."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _computes_in_float32(function, tensors: list[Tensor]) -> bool:
    """Whether an operation computes numbers in float32. A float64 number without dimensions may take part."""
    if torch.float32 not in [t.dtype for t in tensors] or _only_moves(function):
        return False
    narrow, wide = ([t.dim() for t in tensors if t.dtype == dtype] for dtype in (torch.float32, torch.float64))
    return not wide or max(narrow) > max(wide) == 0


@functools.cache
def _only_moves(function) -> bool:
    """Whether an operation only copies numbers, or rounds them to another type. An operation in place adds, multiplies
    or copies, which rounds once on every processor."""
    return function.is_view or function._schema.is_mutable or function.overloadpacket in _MOVING


_MOVING = {aten._to_copy, aten.clone, aten.empty_like, aten.detach, aten.lift_fresh}


def _widened(value):
    """An argument in float64 instead of float32: a tensor, a list of tensors or a type."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, (list, tuple)):
        return [_widened(each) for each in value]
    return torch.float64 if value is torch.float32 else value


def _rounded(result):
    if isinstance(result, Tensor):
        return result.float() if result.dtype == torch.float64 else result
    return tuple(_rounded(each) for each in result) if isinstance(result, (list, tuple)) else result


def _sum(x: Tensor, dims=None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    x = x if dtype is None else x.to(dtype)
    dims = [d % x.dim() for d in (dims or range(x.dim()))] if x.dim() else []
    kept = [d for d in range(x.dim()) if d not in dims]
    halves = x.permute(*kept, *dims).flatten(len(kept)) if dims else x.unsqueeze(-1)
    while (count := halves.shape[-1]) > 1:
        half = count // 2
        halves = torch.cat([halves[..., :half] + halves[..., half : 2 * half], halves[..., 2 * half :]], -1)
    total = halves.squeeze(-1) if halves.shape[-1] else halves.sum(-1)
    return total.reshape([1 if d in dims else size for d, size in enumerate(x.shape)]) if keepdim else total


def _mm(a: Tensor, b: Tensor) -> Tensor:
    total = a.new_zeros(a.shape[0], b.shape[1])
    for column, row in zip(a.unbind(1), b.unbind(0), strict=True):
        total = total + column.unsqueeze(1) * row
    return total


_SUMS = {
    aten.sum.default: lambda x, **options: _sum(x, **options),
    aten.sum.dim_IntList: _sum,
    aten.mm.default: _mm,
    aten.bmm.default: lambda a, b: torch.stack([_mm(*each) for each in zip(a, b, strict=True)]),
}


def main() -> None:
    """Prints the float32 error of the formula of each case and of its gradients."""
    for case in CASES:
        inputs = case.inputs((3, 7), torch.float32)
        want = evaluate(case, widened(inputs), "reference")
        for name, value in rounded_once(case, inputs).items():
            print(f"{case} {name}: {error(value, want[name]):.6g}")


if __name__ == "__main__":
    main()
