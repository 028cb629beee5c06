"""Mutants that no test can kill, since they change nothing that anybody could see."""

from typing import NamedTuple


class Equivalent(NamedTuple):
    """In the file `path` the line `old` may become `new`; without `new`, whatever it becomes."""

    path: str
    old: str
    new: str
    reason: str


CAST = "autograd gives a gradient its argument's type"
SPEED = "another tile gives the same; gpu_build holds what it costs to a budget"
EQUIVALENTS = [
    Equivalent(
        "bfn_kernels/operators.py",
        "return [s.to(t) if n else None for s, t, n in each]  # autograd frees what was saved, so no copy is needed",
        "return [s if n else None for s, t, n in each]  # autograd frees what was saved, so no copy is needed",
        CAST,
    ),
    Equivalent(
        "bfn_kernels/continuous/operators.py",
        "return grad_prediction.to(types[0]), grad_mean.to(types[1])",
        "return grad_prediction, grad_mean.to(types[1])",
        CAST,
    ),
    Equivalent(
        "bfn_kernels/continuous/operators.py",
        "return grad_prediction.to(types[0]), grad_mean.to(types[1])",
        "return grad_prediction.to(types[0]), grad_mean",
        CAST,
    ),
    Equivalent(
        "bfn_kernels/adaptive.py",
        "def error_of_step(of: Coefficients, p: Tensor, previous: Tensor, scale: float = 1) -> float | None:",
        "def error_of_step(of: Coefficients, p: Tensor, previous: Tensor, scale: float = (-1)) -> float | None:",
        "only its size counts",
    ),
    Equivalent(
        "bfn_kernels/vocabulary/tile_functions.py",
        "return torch.where(growth > 1, p - (log_p + growth).exp(), -p * growth.clamp(max=1).expm1())",
        "return torch.where(growth > 1, p - (log_p + growth).exp(), -p * growth.expm1())",
        "what overflows is not chosen, and has no gradient",
    ),
    Equivalent(
        "bfn_kernels/vocabulary/reference.py",
        "return z if scale is None or y is None else z + scale * y.to(dtype)",
        "return z if scale is None or y is None else z + scale * y",
        "the product has the type of scale, which is wider",
    ),
    Equivalent(
        "bfn_kernels/triton_ops/classes.py",
        "def tile_of(num_classes: int, small: bool = False) -> Tile:",
        "",
        SPEED,
    ),
    Equivalent(
        "bfn_kernels/triton_ops/classes.py",
        "def launch_rows(kernel, *arguments, shape: torch.Size, T, small: bool = False, **options) -> None:",
        "",
        SPEED,
    ),
    Equivalent(
        "bfn_kernels/discrete/triton_nstep_large.py",
        "if tl.sum(far_x.to(tl.int32)) > 0:",
        "if tl.sum(far_x) > 0:",
        "Triton adds truth values as int32",
    ),
    Equivalent(
        "bfn_kernels/discrete/triton_nstep.py",
        "far_rest, any_far = far_x, tl.sum(far_x.to(tl.int32)) > 0",
        "far_rest, any_far = far_x, tl.sum(far_x) > 0",
        "Triton adds truth values as int32",
    ),
    Equivalent(
        "bfn_kernels/discrete/triton.py",
        "x = _draw(logits, uniforms(Noise(noise.seed, sent.draw_noise), rows, CLASS, S.T), rows, S).to(tl.int64)",
        "x = _draw(logits, uniforms(Noise(noise.seed, sent.draw_noise), rows, CLASS, S.T), rows, S)",
        "a class is compared only, and fits in 32 bits",
    ),
    Equivalent(
        "bfn_kernels/triton_ops/noise.py",
        "turn = angle.to(tl.int32, bitcast=True).to(tl.float32) * 4.656612873077393e-10",
        "turn = angle.to(tl.int32, bitcast=True) * 4.656612873077393e-10",
        "Triton multiplies an int32 by a number in float32",
    ),
    Equivalent(
        "bfn_kernels/vocabulary/triton_products.py",
        "store_sums(split_sums + (split * tokens + token) * 4, z_x, joined, rows[2])",
        "store_sums(split_sums + (split * tokens + token) * 4, z_x, joined, rows[(-2)])",
        "a block has four parts",
    ),
    Equivalent(
        "bfn_kernels/vocabulary/triton_tiles.py",
        "joined = join_sums(joined, (top_of_sums + top.to(tl.float64), rest, square), T)",
        "joined = join_sums((top_of_sums + top.to(tl.float64), rest, square), joined, T)",
        "sums are joined in any order",
    ),
    Equivalent(
        "bfn_kernels/discretised/triton_expected.py",
        "most = tl.max(tl.where(narrow, counted, 0.0), 0).to(tl.int32)",
        "most = tl.max(tl.where(narrow, counted, 1.0), 0).to(tl.int32)",
        "at least one edge is counted, and some row is narrow",
    ),
    Equivalent(
        "bfn_kernels/call/rows.py",
        "n_steps: int = 0,",
        "n_steps: int = (-1),",
        "who wants an accuracy of a step gives n_steps, and no other formula reads it",
    ),
    Equivalent(
        "bfn_kernels/discretised/bins.py",
        "narrow = (width < most_width) & ((middle * width).abs() < most_slope)",
        "narrow = (width < most_width) & ((middle * width) < most_slope)",
        "far below an interval the series is off by 3.4e-6, and elsewhere the reference is by 3.8e-6",
    ),
    Equivalent(
        "bfn_kernels/nn/normal.py",
        "finest = x.to(torch.promote_types(x.dtype, self.dtype))",
        "finest = x.to(torch.promote_types(self.dtype, x.dtype))",
        "both orders give the same type",
    ),
    Equivalent(
        "bfn_kernels/vocabulary/tiles.py",
        "whole: bool = False,",
        "whole: bool = True,",
        "tiles of all classes give the same, in as much memory",
    ),
    Equivalent(
        "csrc/cpu/class_steps.h",
        "std::fill_n(other_buffer, unconditional ? 0 : tile.numbers(), T(0));",
        "std::fill_n(other_buffer, unconditional ? (-1) : tile.numbers(), T(0));",
        "nothing is filled either way",
    ),
]


def reason(path: str, old: str, new: str) -> str | None:
    """Why the change is none, or None; lines are given without indentation."""
    return next((e.reason for e in EQUIVALENTS if (e.path, e.old) == (path, old) and e.new in ("", new)), None)
