"""The solver step of discrete data, a public function of `bfn_kernels.discrete`."""

import torch
from torch import Tensor

from bfn_kernels.call.outputs import writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.classes import Family, Guided, Plan
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients

FAMILY = Family("discrete", binary=False)


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
    """A sampler's step from time t to t_next: z' = A·z + take·(K(p + r·(p − p_prev)) − 1) + E·ξ, by the coefficients
    of a rule of `bfn_kernels.solvers` [derived], p = softmax(output_logits).

    output_logits, state `[B, ..., K]`: what the network put out at time t, and the state that it saw. rule: a name of
    `solvers.RULES`. A step of second order takes `previous`, which `predicted_out` received in the step before, and
    t_previous, the time of that step. `coefficients` may stand in the place of t, t_next, t_previous, rule and
    schedule. choose: what is taken for p, the "mean", p itself, as solvers do, a "sample" or the "mode", as one-hot
    vectors; "sde1" with samples from t = 0 on is ancestral sampling.
    temperature: what the logits are divided by. unconditional: logits of the network without its condition, and
    guidance: w, as times are, for p = softmax(((1 + w)·output_logits − w·unconditional)/temperature).
    Where `known_mask` is True, p is the class `known` `[B, ...]` (inpainting). `out`, which may be the state itself,
    receives the new state, `theta_out` its probabilities, and `predicted_out` p; both have the state's shape and any of
    the types, and the last may be `previous` itself. noise: the normals of a stochastic rule; draw_noise: uniforms
    `[B, ...]` of a sample; other steps read neither noise nor seed. Times, coefficients, temperature and guidance: as
    times elsewhere; t_previous < t ≤ t_next, on the CPU. Nothing is differentiable. Returns the new state in its type.

    >>> z = torch.tensor([[1.0, 1.0]])
    >>> solver_step(z, z, 0.5, 1.0, beta_1=3.0)
    tensor([[2., 2.]])
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
