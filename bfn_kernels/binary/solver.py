"""The solver step of binary data, a public function of `bfn_kernels.binary`."""

import torch
from torch import Tensor

from bfn_kernels import backends, checks, solvers
from bfn_kernels.arguments import choice_noises, known_values, step_seed
from bfn_kernels.discrete.operators import CHOICES
from bfn_kernels.outputs import check_step_tensors, writes
from bfn_kernels.rows import Rows
from bfn_kernels.schedules import DiscreteSchedule
from bfn_kernels.solvers import Coefficients


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
    checks.data("state", state)
    checks.like("output_logits", output_logits, "state", state)
    choice = checks.choice("choose", choose, CHOICES)
    schedule = solvers.step_schedule(coefficients, beta_1, schedule)
    known = known if known is None else checks.classes("known", known, booleans=True)
    lead = state.shape
    known_mask = known_values(known, known_mask, state, lead)
    inputs = {"output_logits": output_logits, "unconditional": unconditional, "known": known, "known_mask": known_mask}
    rows = {"t": t, "t_next": t_next, "t_previous": t_previous, "temperature": temperature, "guidance": guidance}
    noises = {"noise": noise, "draw_noise": draw_noise}
    check_step_tensors(state, "state", previous, **inputs, **rows, **noises)
    library = backends.library(backend, state.device)
    dtype = checks.compute_dtype(output_logits, state, previous, unconditional)
    times = t, t_next, t_previous
    step = solvers.step_scalars(coefficients, rule, schedule, times, previous, state, dtype, len(lead), 4)
    scales = solvers.guidance_scalars(temperature, unconditional, guidance, state, dtype, len(lead))
    draws = choice_noises(choose, draw_noise, lead)
    seed = step_seed(state, step.std, seed, generator, noise, *draws)
    return library.binary.solver_step(
        output_logits, state, step.take, step.std, step.keep, previous, step.extrapolation, scales[0], unconditional,
        scales[1], choice, known, known_mask, seed, noise, draw_noise, out, theta_out, predicted_out,
    )  # fmt: skip
