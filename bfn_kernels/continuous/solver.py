"""The solver step of continuous data, a public function of `bfn_kernels.continuous`."""

import torch
from torch import Tensor

from bfn_kernels import backends, solvers
from bfn_kernels.call import checks
from bfn_kernels.call.keywords import (
    PARAMETRISATIONS,
    PUBLISHED,
    Limits,
    known_values,
    prediction_scalars,
    step_seed,
)
from bfn_kernels.call.outputs import check_step_tensors, writes
from bfn_kernels.call.rows import Rows
from bfn_kernels.records import Prediction
from bfn_kernels.schedules import ContinuousSchedule, continuous_schedule
from bfn_kernels.solvers import Coefficients


@writes("mean")
def solver_step(
    prediction: Tensor,
    mean: Tensor,
    t: Rows,
    t_next: Rows | None = None,
    *,
    rule: str = "ode1",
    t_previous: Rows | None = None,
    previous: Tensor | None = None,
    coefficients: Coefficients | None = None,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    clip: tuple[float, float] | None = (-1, 1),
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A sampler's step from time t to t_next: μ' = A·μ + take·(x̂ + r·(x̂ − x̂_prev)) + E·ξ, by the coefficients of a
    rule of `bfn_kernels.solvers` [derived].

    prediction, mean `[B, ...]`: what the network put out at time t, and what it saw; x̂ is made of them as in
    `update_sample`. rule: a name of `solvers.RULES`. A step of second order takes `previous`, which `predicted_out`
    received in the step before, and t_previous, the time of that step. `coefficients` may stand in the place of t_next,
    t_previous and rule. Where `known_mask` is True, `known` is x̂ (inpainting). `out`, which may be mean itself,
    receives the new mean, and `predicted_out`, of the mean's shape and any of the types, x̂; it may be `previous`
    itself. noise: the normals of a stochastic rule; the others read neither noise nor seed. Times and coefficients: as
    times elsewhere; t_previous < t ≤ t_next, on the CPU. Nothing is differentiable. Returns the new mean in its type.

    >>> noise_pred, mean = torch.zeros(1, 2), torch.full((1, 2), 0.45)
    >>> solver_step(noise_pred, mean, 0.5, 1.0, rule="sde1", sigma_1=0.1, noise=torch.zeros(1, 2))
    tensor([[0.4950, 0.4950]])
    """
    checks.data("mean", mean)
    checks.like("prediction", prediction, "mean", mean)
    checks.choice("parametrisation", parametrisation, PARAMETRISATIONS)
    schedule = continuous_schedule(sigma_1, schedule)
    ends = checks.interval("clip", clip)
    known_mask = known_values(known, known_mask, mean, mean.shape)
    times = {"t": t, "t_next": t_next, "t_previous": t_previous}
    inputs = {"prediction": prediction, "known": known, "known_mask": known_mask, "noise": noise, **times}
    check_step_tensors(mean, "mean", previous, **inputs)
    library, dtype = backends.library(backend, mean.device), checks.compute_dtype(prediction, mean, previous)
    scales = prediction_scalars(library, parametrisation, t, mean, dtype, schedule, limits)
    solver = solvers.step_scalars(coefficients, rule, schedule, (t, t_next, t_previous), previous, mean, dtype)
    seed = step_seed(mean, solver.std, seed, generator, noise)
    network = Prediction(prediction, mean, scales[0], scales[1], *ends)
    return library.continuous.step(*network, *solver, known, known_mask, seed, noise, out, predicted_out)
