"""Keywords that the families share, from what a caller writes to what the backends take."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bfn_kernels import checks, gauss
from bfn_kernels import noise as random

MAX_NODES = 128


def drawn_seed(
    like: Tensor, seed: int | Tensor | None, *noises: tuple[str, Tensor | None, Sequence[int]]
) -> Tensor | None:
    """`seed=` as a tensor, beside the explicit noises with their names and shapes; None where nothing is left to
    draw."""
    explicit = []
    for name, noise, shape in noises:
        if noise is not None:
            checks.like(name, noise, "the data", like, shape)
            checks.no_gradient("none is defined for noise", **{name: noise})
            explicit.append(name)
    if len(explicit) < len(noises):
        return random.as_seed(seed, like)
    if seed is not None:
        raise ValueError(f"seed must be None where {' and '.join(explicit)} is given, got {seed!r}")
    return None


class Expectation(NamedTuple):
    """How E over the sender's noise is taken: nodes of a quadrature, or a number of draws and where they come from."""

    nodes: tuple[float, ...]
    node_weights: tuple[float, ...]
    n_samples: int
    seed: Tensor | None
    noise: Tensor | None

    def draws(self, like: Tensor, normal: Callable[..., Tensor]) -> Iterator[tuple[Tensor, float]]:
        """The normals, shaped like `like` or a scalar for a node, and their weights."""
        for node, weight in zip(self.nodes, self.node_weights, strict=True):
            yield torch.full((), node, dtype=like.dtype, device=like.device), weight
        for draw in range(self.n_samples):
            if self.noise is None:
                yield normal(like.shape, self.seed, random.MONTE_CARLO, draw, like.dtype), 1 / self.n_samples
            else:
                yield self.noise[draw].to(like.dtype), 1 / self.n_samples


def expectation(
    like: Tensor,
    shape: Sequence[int],
    quadrature: int | None,
    n_samples: int | None,
    seed: int | Tensor | None,
    noise: Tensor | None,
) -> Expectation:
    """Exactly one of `quadrature` and `n_samples` is a number; explicit noise has one draw per leading index."""
    if (quadrature is None) == (n_samples is None):
        raise ValueError(f"exactly one of quadrature and n_samples must be given, got {quadrature=} and {n_samples=}")
    if quadrature is not None:
        checks.integer("quadrature", quadrature, 1)
        if quadrature > MAX_NODES:
            raise ValueError(f"quadrature must be at most {MAX_NODES}, got {quadrature}")
        if noise is not None or seed is not None:
            raise ValueError("seed and noise must be None with quadrature, which draws nothing")
        nodes, weights = gauss.hermite(quadrature)
        return Expectation(nodes, weights, 0, None, None)
    checks.integer("n_samples", n_samples, 1)
    return Expectation((), (), n_samples, drawn_seed(like, seed, ("noise", noise, (n_samples, *shape))), noise)


def known_values(known: Tensor | None, known_mask: Tensor | None, like: Tensor, shape: Sequence[int]) -> None:
    """`known=` and `known_mask=` come together: where the mask is True, the known value is sent instead."""
    if (known is None) != (known_mask is None):
        raise ValueError("known and known_mask must be given together")
    if known is None:
        return
    if tuple(known.shape) != tuple(shape):
        raise ValueError(f"known must have shape {tuple(shape)}, got {tuple(known.shape)}")
    checks.same_device("known", known, "the data", like)
    checks.broadcast_mask("known_mask", known_mask, "the data", like, shape)
    checks.no_gradient("none is defined for it", known=known)


def check_out(out: Tensor | None, model: Tensor, /, **inputs: Tensor | None) -> None:
    """`out=` may be the state itself; writing into it leaves no gradient."""
    if out is None:
        return
    checks.like("out", out, "the state", model)
    if out.dtype != model.dtype:
        raise TypeError(f"out must be {model.dtype} as the state is, got {out.dtype}")
    checks.no_gradient("writing into out leaves none", out=out, **inputs)


def updated_precision(precision: float | Tensor, alpha: float | Tensor, model: Tensor) -> float | Tensor:
    """ρ + α: a number if both are, else a tensor with the shape of their rows, in ρ's type or float32."""
    if not isinstance(precision, Tensor) and not isinstance(alpha, Tensor):
        return float(precision) + float(alpha)
    if (
        isinstance(precision, Tensor)
        and isinstance(alpha, Tensor)
        and (precision.shape, precision.dtype) == (alpha.shape, alpha.dtype)
    ):
        return precision + alpha
    rho, alpha_rows = (
        checks.rows(name, v, model.shape, model, 0) for name, v in (("precision", precision), ("alpha", alpha))
    )
    total = rho + alpha_rows
    kept = max(v.dim() for v in (precision, alpha) if isinstance(v, Tensor))
    return total.reshape(total.shape[:kept]).to(precision.dtype if isinstance(precision, Tensor) else torch.float32)
