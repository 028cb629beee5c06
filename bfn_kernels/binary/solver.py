"""The solver step of binary data, a public function of `bfn_kernels.binary`."""

import torch
from torch import Tensor

from bfn_kernels.call.outputs import writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.classes import Family, Guided, Plan
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients

FAMILY = Family("binary", binary=True)


@writes("state")
def solver_step(
    output_logits: Tensor,
    state: Tensor,
    t: Rows | None = None,
    t_next: Rows | None = None,
    *,
    rule: str = "ode1",
    t_previous: Rows | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    beta_1: float | None = None,
    schedule: DiscreteSchedule | None = None,
    choose: str = "mean",
    temperature: Rows | None = None,
    unconditional: Tensor | None = None,
    guidance: Rows | None = None,
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    theta_out: Tensor | None = None,
    predicted_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    draw_noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A sampler's step from time t to t_next: d' = A·d + 2·take·(2(p + r·(p − p_prev)) − 1) + E·ξ, by the
    coefficients of a rule of `bfn_kernels.solvers` [derived], p = σ(output_logits), the probability of class 1.

    output_logits, state `[B, ...]`, and so are `previous`, `unconditional`, noise, draw_noise and what `theta_out` and
    `predicted_out` receive. Everything else as in `discrete.solver_step`.

    >>> d = torch.ones(1)
    >>> solver_step(d, d, 0.5, 1.0, beta_1=3.0, choose="mode")
    tensor([5.])
    """
    return FAMILY.solver_step(
        output_logits,
        state,
        Plan(t, t_next, t_previous, previous, rule, coefficients, beta_1, schedule),
        Guided(temperature, unconditional, guidance),
        (choose, known, known_mask),
        (seed, generator, noise, draw_noise),
        (out, theta_out, predicted_out),
        backend,
    )
