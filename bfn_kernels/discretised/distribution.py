"""The output distribution of discretised data: the normal that the network predicts, and the values and probabilities
of the bins.

`output_distribution`, `expected_value`, `log_prob`, `sample` and `mode` are public in `bfn_kernels.discretised`.
Numbers in parentheses are equations of Graves et al. 2023.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bfn_kernels import backends, checks, ranges
from bfn_kernels.arguments import keywords
from bfn_kernels.arguments.keywords import PUBLISHED, Limits, prediction_scalars
from bfn_kernels.arguments.rows import PerRow
from bfn_kernels.discretised import reference
from bfn_kernels.formulas import NONE
from bfn_kernels.libraries import Library
from bfn_kernels.records import MODE, NO_NOISE, SAMPLE, LossTarget, Noise, OutputLimits, Prediction
from bfn_kernels.schedules import ContinuousSchedule

MAX_COMPONENTS = 1024


def output_distribution(
    pred_mean: Tensor,
    pred_log_std: Tensor | None,
    mean: Tensor | None,
    t: PerRow,
    *,
    sigma_1: float | None = None,
    schedule: ContinuousSchedule | None = None,
    parametrisation: str = "noise",
    limits: Limits = PUBLISHED,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and std of the normal that the network predicts for the data at time t (105, 106).

    The mean is μ/γ − √((1−γ)/γ)·pred_mean, and the std is √((1−γ)/γ)·exp(pred_log_std), where γ = 1 − σ₁^{2t} in the
    paper's schedule. With `parametrisation="data"` they are pred_mean and exp(pred_log_std). Pass the mean and the std
    to `sample`, `mode`, `expected_value` and `log_prob`.

    Args:
        pred_mean: Predicted mean, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; differentiable. If
            pred_log_std is None, pred_mean has both predictions, stacked in a last dimension of two.
        pred_log_std: ln of the predicted std, in the shape of pred_mean, floating-point; differentiable. None if
            pred_mean has both predictions.
        mean: μ, the mean that the network saw, `[B, ...]`; differentiable. None only with parametrisation="data".
        t: Times in [0, 1]: a number, or a floating-point tensor `[B]` or of any leading part of `[B, ...]`.
        sigma_1: σ₁ of the paper's schedule (80), the std at t = 1, in (0, 1). Pass either sigma_1 or schedule.
        schedule: An object with the methods of `schedules.ContinuousSchedule`, instead of sigma_1.
        parametrisation: "noise": the network predicts the noise (105, 106); "data": it predicts the data.
        limits: `bfn_kernels.Limits`, to which the predicted ln std and the std are clamped. At times before t_min, a
            noise prediction is ignored, and the normal is N(0, 1).
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The mean and the std, each `[B, ...]`, or `[B, ..., M]` of a mixture, in float32, or float64 if a prediction or
        mean is float64.

    Example:
        >>> zero = torch.zeros(1, 2)
        >>> mean, std = output_distribution(zero, zero - 1, zero + 0.36, 0.5, sigma_1=0.1)
        >>> mean, std, mode(mean, std, num_bins=16)
        (tensor([[0.4000, 0.4000]]), tensor([[0.1226, 0.1226]]), tensor([[0.4375, 0.4375]]))
    """
    bins = keywords.checked_bins(2, limits)
    checks.data("pred_mean", pred_mean)
    if pred_log_std is None and (pred_mean.dim() == 0 or pred_mean.shape[-1] != 2):
        raise ValueError(f"pred_mean must have shape [..., 2] without pred_log_std, got {tuple(pred_mean.shape)}")
    pred_mean, pred_log_std = reference.pair(pred_mean, pred_log_std)
    checks.like("pred_log_std", pred_log_std, "pred_mean", pred_mean)
    lead = pred_mean.shape[:-1]
    is_mixture = len(lead) > 0 and isinstance(mean, Tensor) and checks.is_dense(mean) and mean.shape == lead
    shape = lead if is_mixture else pred_mean.shape
    mean = keywords.read_mean(pred_mean, mean, parametrisation, "pred_mean", shape)
    library = backends.library(backend, pred_mean.device)
    dtype = checks.compute_dtype(pred_mean, pred_log_std, mean)
    scales = prediction_scalars(
        library, parametrisation, t, pred_mean, dtype, sigma_1, schedule, limits, dims=len(shape)
    )
    return normal_of(library, dtype, pred_mean, pred_log_std, mean, scales, bins)


def expected_value(
    mean: Tensor,
    std: Tensor,
    *,
    num_bins: int,
    mixture_logits: Tensor | None = None,
    clip: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Mean of the output distribution, k̂ = Σ p_k c_k over the bins, where c_k is the centre of bin k.

    For one normal with clip=True, k̂ = (1 − 1/K) − h·Σ Φ((b_j − mean)/std) over the inner edges b_j, where h = 2/K is
    the width of a bin.

    Args:
        mean: Means of the normals, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; differentiable.
        std: Standard deviations of the normals, positive, in the shape of mean, floating-point; differentiable.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point;
            differentiable. None for one normal.
        clip: True adds the mass beyond [−1, 1] to the first and the last bin (107–109). False renormalises the
            distribution in [−1, 1]; a normal with less than 1e-5 of its mass in [−1, 1] then counts as uniform.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        k̂ `[B, ...]` in the type of mean.

    Example:
        >>> expected_value(torch.tensor([0.3]), torch.tensor([1e-3]), num_bins=16)
        tensor([0.3125])
    """
    num_bins, clip = checks.integer("num_bins", num_bins, 2), checks.boolean("clip", clip)
    std, _ = _normal(mean, std, mixture_logits)
    library = backends.library(backend, mean.device)
    return library.discretised.expected_value(mean, std, mixture_logits, num_bins, clip)


def log_prob(
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    *,
    num_bins: int,
    mixture_logits: Tensor | None = None,
    clip: bool = True,
    backend: str | None = None,
) -> Tensor:
    """ln p, in nats, of the bin that x lies in, exact far into both tails (107–109).

    The paper's published code returns a density instead (docs/published_code.md).

    Args:
        x: Data in [−1, 1], `[B, ...]`, floating-point; not differentiable. An x outside is an error on the CPU; a GPU
            does not check.
        mean: Means of the normals, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; differentiable.
        std: Standard deviations of the normals, positive, in the shape of mean, floating-point; differentiable.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point;
            differentiable. None for one normal.
        clip: True adds the mass beyond [−1, 1] to the first and the last bin (107–109). False renormalises the
            distribution in [−1, 1]; a normal with less than 1e-5 of its mass in [−1, 1] then counts as uniform.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        ln p in the shape of x, float32, or float64 if an argument is float64.

    Example:
        >>> log_prob(torch.tensor([0.1]), torch.zeros(1), torch.ones(1), num_bins=2)
        tensor([-0.6931])
    """
    checks.data("x", x)
    num_bins, clip = checks.integer("num_bins", num_bins, 2), checks.boolean("clip", clip)
    std, shape = _normal(mean, std, mixture_logits)
    checks.like("x", x, "mean", mean, shape)
    checks.no_gradient("only mean, std and mixture_logits have a gradient", x=x)
    library = backends.library(backend, x.device)
    return -keywords.bin_loss(library, x, (mean, std, mixture_logits), num_bins, clip, LossTarget(None, NONE))


def sample(
    mean: Tensor,
    std: Tensor,
    *,
    num_bins: int,
    mixture_logits: Tensor | None = None,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    component_noise: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """A draw from the clipped output distribution: the centre of the bin of clamp(mean + std·ε, −1, 1).

    Args:
        mean: Means of the normals, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; not differentiable.
        std: Standard deviations of the normals, positive, in the shape of mean, floating-point; not differentiable.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point; not
            differentiable. None for one normal.
        seed: An int, or an int64 tensor of one element, that determines all random numbers of the call.
        generator: A `torch.Generator` on the tensors' device, to draw the seed. None: torch's default generator.
        noise: Standard normals, `[B, ...]`, floating-point, instead of a seed; not differentiable.
        component_noise: Uniforms in (0, 1], `[B, ...]`, floating-point, instead of a seed, to draw the component of a
            mixture.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The centres `[B, ...]` in the type of mean.

    Raises:
        ValueError: If component_noise is given without mixture_logits.

    Example:
        >>> sample(torch.tensor([0.3]), torch.tensor([0.1]), num_bins=2, noise=torch.zeros(1))
        tensor([0.5000])
    """
    num_bins = checks.integer("num_bins", num_bins, 2)
    std, shape = _normal(mean, std, mixture_logits, "a draw")
    draws = component_noises(mixture_logits, component_noise, shape)
    seed = keywords.noise_seed(mean, seed, generator, ("noise", noise, shape), *draws)
    library = backends.library(backend, mean.device)
    noises = Noise(seed, noise)
    return library.discretised.choose(mean, std, mixture_logits, num_bins, SAMPLE, noises, component_noise)


def mode(
    mean: Tensor, std: Tensor, *, num_bins: int, mixture_logits: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """The centre of the likeliest bin of the clipped output distribution.

    For a mixture, the cost grows with K, since the op computes the probability of every bin.

    Args:
        mean: Means of the normals, `[B, ...]`, or `[B, ..., M]` of a mixture, floating-point; not differentiable.
        std: Standard deviations of the normals, positive, in the shape of mean, floating-point; not differentiable.
        num_bins: K, the number of bins of [−1, 1], at least 2.
        mixture_logits: Logits of the components of a mixture, `[B, ..., M]`, M at most 1024, floating-point; not
            differentiable. None for one normal.
        backend: A name of `backends.BACKENDS`; None chooses one for the device.

    Returns:
        The centres `[B, ...]` in the type of mean.

    Example:
        >>> mode(torch.tensor([0.3, 5.0]), torch.tensor([0.1, 1.0]), num_bins=4)
        tensor([0.2500, 0.7500])
    """
    num_bins = checks.integer("num_bins", num_bins, 2)
    std, _ = _normal(mean, std, mixture_logits, "a mode")
    library = backends.library(backend, mean.device)
    return library.discretised.choose(mean, std, mixture_logits, num_bins, MODE, NO_NOISE, component_noise=None)


def normal_of(
    library: Library, dtype: torch.dtype, pred_mean, pred_log_std, mean, scales, bins: tuple
) -> tuple[Tensor, Tensor]:
    """The mean and std of the normal that the network predicts, in `dtype`, the type of the arithmetic. The operator
    `continuous.predict_data` computes the mean. The range that it clips to is infinite, since this mean is not clipped.
    """
    pred_mean, pred_log_std = reference.pair(pred_mean, pred_log_std)
    if mean is not None and mean.dim() < pred_mean.dim():
        mean = mean.unsqueeze(-1).expand(pred_mean.shape)
        scales = [None if scale is None else scale.unsqueeze(-1) for scale in scales]
    data_mean = library.continuous.predict_data(Prediction(pred_mean.to(dtype), mean, *scales))
    return data_mean, library.discretised.output_std(pred_log_std.to(dtype), *scales, OutputLimits(*bins[2:]))


def _normal(
    mean: Tensor, std: Tensor, mixture_logits: Tensor | None, what: str | None = None
) -> tuple[Tensor, Sequence[int]]:
    """Checks a normal or a mixture of normals. Returns the std as operators take it, and the shape of the variables.
    what: the op's result in words, if the result has no gradient; else None."""
    checks.data("mean", mean)
    checks.like("std", std, "mean", mean)
    if what is not None:
        reason = f"{what} has no gradient, only expected_value and log_prob have one"
        checks.no_gradient(reason, mean=mean, std=std, mixture_logits=mixture_logits)
    std = ranges.compiled_nonnegative(std, zero=False)
    if mixture_logits is None:
        return std, mean.shape
    checks.components("mixture_logits", mixture_logits, MAX_COMPONENTS)
    checks.like("mixture_logits", mixture_logits, "mean", mean)
    return std, mean.shape[:-1]


def component_noises(mixture_logits: Tensor | None, noise: Tensor | None, shape: Sequence[int]) -> list[tuple]:
    """The noise that draws a component of a mixture, as `noise_seed` takes it; an empty list without a mixture."""
    if mixture_logits is not None:
        return [("component_noise", noise, shape)]
    if noise is not None:
        raise ValueError("component_noise must be None without mixture_logits")
    return []


def check_output(x: Tensor, name: str, output: tuple, mean: Tensor | None, parametrisation: str) -> Tensor | None:
    """Checks that the network's output (pred_mean, pred_log_std, mixture_logits) fits x. Returns `mean`, the mean that
    the network saw, or None with parametrisation="data", which does not read it. name: the name of x in errors."""
    checks.data(name, x)
    pred_mean, pred_log_std, mixture_logits = output
    each: tuple[str, Tensor] = name, x  # a tensor with a number for each normal
    if mixture_logits is not None:
        checks.components("mixture_logits", mixture_logits, MAX_COMPONENTS)
        checks.like("mixture_logits", mixture_logits, name, x, (*x.shape, mixture_logits.shape[-1]))
        each = "mixture_logits", mixture_logits
    shape = each[1].shape
    checks.like("pred_mean", pred_mean, *each, shape if pred_log_std is not None else (*shape, 2))
    if pred_log_std is not None:
        checks.like("pred_log_std", pred_log_std, *each)
    return keywords.read_mean(x, mean, parametrisation)
