"""The yardstick of the tests of accuracy: how much a formula loses in float32.

PyTorch computes float32 functions by another library on each kind of processor, so the error of the reference in
float32 is another one, too. Here each operation runs in float64, and its result is rounded to float32 at random, as
stochastic arithmetic does. The error that remains belongs to the formula and not to a processor.
`python -m tests.kernels.yardstick` prints it for all cases.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.op_cases import CASES
from tests.kernels.support import FIRST, error, evaluate, scale, ulp, widened

aten = torch.ops.aten
Results = dict[str, Tensor] | Sequence[Tensor]

# The error of a formula is the largest error of a run with each of these seeds. In a single run, errors may cancel by
# luck.
SEEDS = (None, *range(4))
# The error of a backend may be this many times as large. A backend may compute functions, or normals from a seed, by
# approximations that are less accurate than a rounded result, and may add in another order. Of 2206 float32 results of
# the two CPU backends, none has more than 1.9 times the error of its formula.
FACTOR = 2.5
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


class Rounded(TorchDispatchMode):
    """Computes every operation of float32 tensors in float64, and rounds its result to one of the two nearest float32
    numbers. The nearer a number is, the more often it is the result, so that the mean error is 0. The seed decides.
    Without a seed, the nearest number is the result.

    The order of a sum is a part of the formula. `sum` adds the two halves of the numbers until one number is left. A
    product of matrices adds its terms one after the other, with a seed in a random order.
    """

    def __init__(self, seed: int | None = None):
        super().__init__()
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not _computes_in_float32(function, [*_tensors(args), *_tensors(kwargs.values())]):
            return function(*args, **kwargs)
        if function in _COMPOSED:
            with self:
                return _COMPOSED[function](*args, **kwargs)
        if function in _SUMS:
            return _SUMS[function](*args, **kwargs)
        if function in _PRODUCTS:
            return _PRODUCTS[function](*args, self.generator)
        wide = {name: _widened(value) for name, value in kwargs.items()}
        return self.rounded(function(*_widened(args), **wide))

    def rounded(self, result):
        if isinstance(result, (list, tuple)):
            return tuple(map(self.rounded, result))
        if not isinstance(result, Tensor) or result.dtype != torch.float64:
            return result
        near = result.float()
        if self.generator is None:
            return near
        rest = result - near
        other = torch.nextafter(near, torch.where(rest > 0, torch.inf, -torch.inf).float())
        uniform = torch.rand(result.shape, dtype=torch.float64, generator=self.generator)
        return torch.where(rest.abs() > uniform * (other.double() - near).abs(), other, near)


def errors(compute: Callable[[], Results], want: Results) -> Iterator[dict[Any, float]]:
    """The largest error of each result of a formula, which `compute` computes in a narrow type, over the first of the
    SEEDS, over the first two, and so on. A caller whose results are accurate enough needs only the first of them."""
    most: dict[Any, float] = {}
    for seed in SEEDS:
        with Rounded(seed):
            found = dict(_named(compute()))
        for name, exact in _named(want):
            most[name] = max(most.get(name, 0.0), error(found[name], exact))
        yield most


def check_close(got: Results, want: Results, formula: Callable[[], Results], also: float = 0.0) -> None:
    """Checks results of a narrow type against the same results in float64.

    formula: computes the results in the narrow type by the reference. It is called only while an error is too large.
    also: a further error that is allowed, relative to the scale of a result.
    """
    off, least, more = {}, {}, {}
    for (name, value), (_, exact) in zip(_named(got), _named(want), strict=True):
        off[name], more[name] = error(value, exact), also * scale(exact)
        least[name] = LEAST * ulp(value.dtype, scale(exact)) + more[name]
    losses = ({name: FACTOR * loses[name] + more[name] for name in off} for loses in errors(formula, want))
    check_errors(off, least, losses)


def check_errors(off: dict[Any, float], least: dict[Any, float], formula: Iterable[dict[Any, float]]) -> None:
    """Checks that no error is larger than `least` and larger than the formula allows.

    formula: what the formula allows after a first run, after two runs, and so on. A run is made only while an error is
    too large, since what is allowed never falls.
    """
    for more in chain([least], formula):
        allowed = {name: max(least[name], more[name]) for name in off}
        if all(off[name] <= allowed[name] for name in off):
            return
    for name, found in off.items():
        assert found <= allowed[name], f"{name}: error {found:.3g}, allowed {allowed[name]:.3g}"


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


_MOVING = {aten._to_copy, aten.clone, aten.empty_like, aten.detach, aten.lift_fresh, aten.nan_to_num}


def _widened(value):
    """An argument in float64 instead of float32: a tensor, a list of tensors or a type."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, (list, tuple)):
        return [_widened(each) for each in value]
    return torch.float64 if value is torch.float32 else value


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


def _mm(a: Tensor, b: Tensor, generator: torch.Generator | None) -> Tensor:
    total, count = a.new_zeros(a.shape[0], b.shape[1]), len(b)
    for k in range(count) if generator is None else torch.randperm(count, generator=generator).tolist():
        total = total + a[:, k : k + 1] * b[k]
    return total


_SUMS = {
    aten.sum.default: lambda x, **options: _sum(x, **options),
    aten.sum.dim_IntList: _sum,
}
_PRODUCTS = {
    aten.mm.default: _mm,
    aten.bmm.default: lambda a, b, of: torch.stack([_mm(*each, of) for each in zip(a, b, strict=True)]),
}


def main() -> None:
    """Prints what the formulas of each case and of its gradients lose in float32; with --few, of a case of every
    second op."""
    for case in [*FIRST][::2] if "--few" in sys.argv else CASES:
        inputs = case.inputs((2, 3), torch.float32)
        compute, want = partial(evaluate, case, inputs, "reference"), evaluate(case, widened(inputs), "reference")
        *_, loses = errors(compute, want)
        for name, most in loses.items():
            print(f"{case} {name}: {most:.6g}")


if __name__ == "__main__":
    main()
