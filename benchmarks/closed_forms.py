"""The closed forms in plain torch: the best code that a user would write without this library.

The code also works under torch.compile. Gradients are autograd's. Only the tables of `VonMisesAccuracy` and their
constants come from the library. `noise`, if it is passed, replaces the normals that torch would draw, and `draw_noise`
the uniforms that draw a class. Numbers in parentheses are equations of Graves et al. 2023. LSE is logsumexp.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import VonMises
from torch.special import log_ndtr

from bfn_kernels.concentrations import QUANTILES, TABLE_END
from bfn_kernels.schedules import VonMisesAccuracy

LOG_RANGE = 10


def column(row: Tensor) -> Tensor:
    """Numbers per row `[B]` in the shape `[B, 1]`, which broadcasts to data `[B, D]`."""
    return row.unsqueeze(-1)


def drawn(shape: tuple[int, ...], noise: Tensor | None, like: Tensor, out: Tensor | None = None) -> Tensor:
    """Normals in a tensor that the caller may overwrite."""
    if noise is not None:
        return noise.clone() if out is None else out.copy_(noise)
    return torch.randn(shape, dtype=like.dtype, device=like.device) if out is None else out.normal_()


def continuous_flow_sample(x: Tensor, t: Tensor, noise: Tensor | None = None, *, sigma_1: float) -> Tensor:
    """γx + √(γ(1−γ))·ε (77)."""
    log_variance = 2 * math.log(sigma_1) * t
    gamma, rest = column(-log_variance.expm1()), column(log_variance.exp())
    return drawn(x.shape, noise, x).mul_((gamma * rest).sqrt()).addcmul_(gamma, x)


def continuous_update_sample(x, mean, precision, alpha, noise=None, *, out: Tensor | None = None) -> Tensor:
    """(ρμ + αx)/ρ' + (√α/ρ')·ε, where ρ' = ρ + α."""
    total = precision + alpha
    updated = drawn(x.shape, noise, x, out).mul_(column(alpha.sqrt() / total))
    return updated.addcmul_(column(precision / total), mean).addcmul_(column(alpha / total), x)


def continuous_continuous_time_loss(x: Tensor, prediction: Tensor, t: Tensor, *, sigma_1: float) -> Tensor:
    """−ln σ₁·(x − x̂)²/σ₁^{2t} (101)."""
    return continuous_weight(t, sigma_1) * (x - prediction.clamp(-1, 1)).square()


def continuous_weight(t: Tensor, sigma_1: float) -> Tensor:
    return column(-math.log(sigma_1) * torch.exp(-2 * math.log(sigma_1) * t))


def output_std(pred_log_std: Tensor) -> Tensor:
    return pred_log_std.clamp(-LOG_RANGE, LOG_RANGE).exp().clamp(1e-3, 10)


def edges(num_bins: int, like: Tensor) -> Tensor:
    return 2 / num_bins * torch.arange(1, num_bins, dtype=like.dtype, device=like.device) - 1


def discretised_continuous_time_loss(x, pred_mean, pred_log_std, t, *, num_bins: int, sigma_1: float) -> Tensor:
    """weight·(x − k̂)² (101). The expected bin centre is k̂ = −(1/K)·Σ erf(z_j/√2), where z_j is the distance of the
    j-th inner edge from the mean, in standard deviations."""
    scale = (math.sqrt(0.5) / output_std(pred_log_std)).unsqueeze(-1)
    z = (edges(num_bins, x) - pred_mean.unsqueeze(-1)) * scale
    return continuous_weight(t, sigma_1) * (x + z.erf().sum(-1) / num_bins).square()


def log_bin_probs(mean: Tensor, std: Tensor, num_bins: int) -> Tensor:
    """ln p_k `[..., K]` from one ln Φ(−|z|) per edge. The mass of a bin on one side of the mean is a difference of two
    tails, and the mass of the bin with the mean is 1 minus both tails. Differences of Φ would be 0 in float32 for most
    bins."""
    z = (edges(num_bins, mean) - mean.unsqueeze(-1)) / std.unsqueeze(-1)
    tail = log_ndtr(-z.abs())
    below, above = tail[..., :-1], tail[..., 1:]
    one_side = z[..., :-1] * z[..., 1:] > 0
    nearer, farther = torch.maximum(below, above), torch.minimum(below, above)
    outside = nearer + torch.log(-torch.expm1(torch.where(one_side, farther - nearer, -1.0)))
    around = torch.log1p(-torch.where(one_side, 0.0, below.exp() + above.exp()))
    ends = []
    for edge, is_tail in ((z[..., :1] < 0, tail[..., :1]), (z[..., -1:] > 0, tail[..., -1:])):
        ends.append(torch.where(edge, is_tail, torch.log1p(-torch.where(edge, 0.0, is_tail.exp()))))
    return torch.cat([ends[0], torch.where(one_side, outside, around), ends[1]], -1)


def expectation(like, noise, n_samples, quadrature) -> list[tuple]:
    """Returns the draws of a Monte-Carlo expectation or the nodes of a quadrature, each with its weight. quadrature:
    the number of nodes, or a list of pairs (node, weight), which is returned unchanged."""
    if n_samples:
        return [(draw, 1 / n_samples) for draw in drawn((n_samples, *like.shape), noise, like)]
    if isinstance(quadrature, list):
        return quadrature
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(quadrature)
    return list(zip(nodes.tolist(), (node_weights / node_weights.sum()).tolist(), strict=True))


def discretised_discrete_time_loss(
    x, pred_mean, pred_log_std, t, noise=None, *, num_bins, sigma_1, n_steps, n_samples=None, quadrature=None, floor=0.0
) -> Tensor:
    """n·E[−ε²/2 − LSE_k(ln p_k − (y − c_k)²/2τ²)] (113–119), where y = x + τε, τ = 1/√α, and c_k is the centre of bin
    k. With a floor, p is clamped to [floor, 1 − floor] and then normalised, as the published formulation does by
    torch's Categorical."""
    step = 2 * math.log(sigma_1) / n_steps
    root_alpha = column((-math.expm1(step) * torch.exp(-step * (n_steps * t + 1))).sqrt())
    log_p = log_bin_probs(pred_mean, output_std(pred_log_std), num_bins)
    if floor:
        log_p = log_p.clamp(math.log(floor), math.log1p(-floor)).log_softmax(-1)
    centres = (2 * torch.arange(num_bins, dtype=x.dtype, device=x.device) + 1) / num_bins - 1
    loss = torch.zeros_like(x)
    for eps, weight in expectation(x, noise, n_samples, quadrature):
        z = (x * root_alpha + eps).unsqueeze(-1) - centres * root_alpha.unsqueeze(-1)
        loss = loss + weight * (-eps * eps / 2 - torch.logsumexp(log_p - z * z / 2, -1))
    return n_steps * loss


def send(x: Tensor, beta: Tensor, noise: Tensor) -> Tensor:
    """The message y plus a constant β for all classes, which softmax cancels. It overwrites the noise."""
    shift = (noise.shape[-1] * beta).to(noise.dtype)
    y = noise.mul_(shift.sqrt().unsqueeze(-1))
    return y.scatter_add_(-1, x.unsqueeze(-1), shift.expand(x.shape).unsqueeze(-1))


def discrete_flow_sample(x: Tensor, t: Tensor, noise=None, *, num_classes: int, beta_1: float) -> Tensor:
    """softmax(β(Ke_x − 1) + √(Kβ)·ε) (182, 185)."""
    noise = drawn((*x.shape, num_classes), noise, t)
    return send(x, column(beta_1 * t.clamp(max=1 - 1e-6) ** 2), noise).softmax(-1)


def discrete_theta(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def discrete_update_sample(output_logits, state, alpha, noise=None, draw_noise=None) -> Tensor:
    """z' = z + y for a class that is drawn. Searching the cumulative probabilities takes a third of the time of
    torch.multinomial."""
    if draw_noise is None:
        draw_noise = torch.rand(state.shape[:-1], device=state.device)
    cumulative = output_logits.softmax(-1)
    torch.cumsum(cumulative, -1, out=cumulative)
    sent = torch.searchsorted(cumulative, draw_noise.unsqueeze(-1), right=True).squeeze(-1)
    y = send(sent.clamp(max=state.shape[-1] - 1), alpha, drawn(state.shape, noise, state))
    return y.add_(state).sub_(alpha)


def discrete_continuous_time_loss(x: Tensor, logits: Tensor, t: Tensor, *, beta_1: float) -> Tensor:
    """Kβ₁t·‖e_x − p‖² (205)."""
    p = logits.softmax(-1)
    distance = p.square().sum(-1) - 2 * p.gather(-1, x.unsqueeze(-1)).squeeze(-1) + 1
    return column(logits.shape[-1] * beta_1 * t) * distance


def discrete_reconstruction_loss(x: Tensor, logits: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), x.flatten(), reduction="none").view(x.shape)


def discrete_discrete_time_loss(x, logits, t, noise=None, *, beta_1: float, n_steps: int, n_samples: int) -> Tensor:
    """n·E[y_x + LSE(z) − LSE(z + y)], the joint receiver (189, 190)."""
    alpha = column(beta_1 * (2 * (n_steps * t + 1) - 1) / n_steps**2)
    total = n_samples * logits.logsumexp(-1)
    for draw in range(n_samples):
        y = send(x, alpha, drawn(logits.shape, None if noise is None else noise[draw], logits))
        total = total + y.gather(-1, x.unsqueeze(-1)).squeeze(-1) - (logits + y).logsumexp(-1)
    return n_steps / n_samples * total


def sign(x: Tensor, like: Tensor) -> Tensor:
    """1 for class 1, and −1 for class 0."""
    return (2 * x - 1).to(like.dtype)


def binary_flow_sample(x: Tensor, t: Tensor, noise: Tensor | None = None, *, beta_1: float) -> Tensor:
    """σ(d), d ~ N(2βs, 4β), where σ is the sigmoid and s the `sign` of x."""
    beta = column(beta_1 * t.clamp(max=1 - 1e-6) ** 2)
    return drawn(x.shape, noise, t).mul_((4 * beta).sqrt()).addcmul_(2 * beta, sign(x, t)).sigmoid_()


def binary_update_sample(output_logits, state, alpha, noise=None, draw_noise=None) -> Tensor:
    """d' = d + 2αs + 2√α·ε for a class that is drawn."""
    u = torch.rand(state.shape, device=state.device) if draw_noise is None else draw_noise
    y = drawn(state.shape, noise, state).mul_((4 * alpha).sqrt()).add_(state)
    return y.add_(torch.where(u < torch.sigmoid(-output_logits), -2 * alpha, 2 * alpha))


def binary_continuous_time_loss(x: Tensor, logits: Tensor, t: Tensor, *, beta_1: float) -> Tensor:
    """4β₁t·σ(−sz)²."""
    return column(4 * beta_1 * t) * torch.sigmoid(-sign(x, logits) * logits).square()


def binary_reconstruction_loss(x: Tensor, logits: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="none")


def binary_discrete_time_loss(
    x, logits, t, noise=None, *, beta_1: float, n_steps: int, n_samples=None, quadrature=None
) -> Tensor:
    """n·E[softplus(−sz) − softplus(−sz − r)], r = 2α + 2√α·sε."""
    alpha = column(beta_1 * (2 * (n_steps * t + 1) - 1) / n_steps**2)
    s = sign(x, logits)
    against = -s * logits
    loss = F.softplus(against)
    for eps, weight in expectation(logits, noise, n_samples, quadrature):
        loss = loss - weight * F.softplus(against - 2 * alpha - 2 * alpha.sqrt() * s * eps)
    return n_steps * loss


def circular_flow_sample(x: Tensor, step: Tensor, normals=None, angle=None, *, schedule: VonMisesAccuracy) -> Tensor:
    """x + an angle of vM(0, c). The concentration c is random: a normal chooses a place in the table of the quantiles
    of c, and c is interpolated there."""
    table = schedule.on(x.device)[step - 1]
    normals = torch.randn_like(x) if normals is None else normals
    place = ((normals + TABLE_END) * ((QUANTILES - 1) / (2 * TABLE_END))).clamp(0, QUANTILES - 1)
    below = place.long().clamp(max=QUANTILES - 2)
    low, high = table.gather(1, below), table.gather(1, below + 1)
    concentration = torch.lerp(low, high, place - below)
    angle = VonMises(torch.zeros_like(x), concentration).sample() if angle is None else angle
    return torch.remainder(x + angle + math.pi, 2 * math.pi) - math.pi


def circular_renoise(pred: Tensor, step: Tensor, normals=None, angle=None, *, schedule: VonMisesAccuracy) -> Tensor:
    return circular_flow_sample(pred, step, normals, angle, schedule=schedule)


def circular_discrete_time_loss(x: Tensor, pred: Tensor, step: Tensor, *, schedule: VonMisesAccuracy) -> Tensor:
    """n·α·A(α)·(1 − cos(x − x̂)), where A = I₁/I₀."""
    return column(schedule.weights.to(x.device, x.dtype)[step - 1]) * (1 - (x - pred).cos())
