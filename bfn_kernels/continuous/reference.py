"""Continuous data in plain PyTorch: the executable specification. Equation numbers refer to arXiv 2308.07037.

Data, means and explicit noise have the shape `[B, ...]`. Row scalars (`mean_scale`, `weight`, …) come from the module
`arguments.rows`, in the type of the arithmetic, and broadcast to the data. [derived] marks formulas that are not in the
paper.
"""

from torch import Tensor

from bfn_kernels.checks import compute_dtype
from bfn_kernels.formulas import clamped, hide, mean_step, reduce
from bfn_kernels.formulas import gaussian_step as gaussian_step
from bfn_kernels.ranges import values
from bfn_kernels.records import LossTarget, Noise, Prediction, Solver


def step(
    network: Prediction,
    solver: Solver,
    known: Tensor | None,
    known_mask: Tensor | None,
    noise: Noise,
    out: Tensor | None = None,
    predicted_out: Tensor | None = None,
) -> Tensor:
    """μ' = keep·μ + take·(x̂ + extrapolation·(x̂ − x̂_prev)) + std·ξ [derived], where x̂ is the result of `predict_data`,
    or `known` where known_mask is True. An update sends x̂ with accuracy α: keep = ρ/ρ', take = α/ρ' and std = √α/ρ'.

    known_mask: bool, broadcasts to the mean. predicted_out: receives x̂, and may be `previous`.
    """
    dtype = compute_dtype(network.prediction, network.mean, solver.previous)
    x_hat = predict_data(network._replace(prediction=network.prediction.to(dtype)))
    return mean_step(network.mean, x_hat, solver, known, known_mask, noise, out, predicted_out)


def predict_data(network: Prediction) -> Tensor:
    """x̂ = μ/γ − √((1−γ)/γ)·ε̂ (84), clipped to [low, high]; 0 without a gradient where t < t_min. If the network has no
    scales, x̂ is the prediction, clipped."""
    prediction, mean, mean_scale, noise_scale, low, high = network
    if mean_scale is None:
        return clamped(prediction, low, high)
    started = mean_scale != 0  # mean_scale is 1/γ ≥ 1 where t ≥ t_min, else 0
    dtype = compute_dtype(prediction, mean)
    mean, noise_pred = hide(started, mean.to(dtype), prediction.to(dtype))
    return clamped(mean_scale * mean - noise_scale * noise_pred, low, high).to(prediction.dtype)


def squared_loss(x: Tensor, network: Prediction, weight: Tensor, offset: Tensor | None, target: LossTarget) -> Tensor:
    """weight·(x − x̂)² + offset. L∞ (101), L_n (96) and −ln N(x; x̂, v) differ only in weight and offset."""
    prediction, mean, *_, low, high = network
    dtype = compute_dtype(x, prediction, mean)
    x, prediction, mean = hide(target.mask, x.to(dtype), prediction.to(dtype), None if mean is None else mean.to(dtype))
    values("x", x, low, high)
    error = x - predict_data(network._replace(prediction=prediction, mean=mean))
    loss = weight * error * error
    return reduce(loss if offset is None else loss + offset, *target)
