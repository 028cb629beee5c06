"""The published formulation: our own transcription of the formulas as the authors' code evaluates them.

Probabilities of bins are differences of distribution functions, and sums run over all K bins. Monte-Carlo receivers
are mixture densities of torch.distributions, `[draws, B, D, K]` and, for discrete data, `[draws, B, D, K, K]`. Each
variable has a separate time t, and the state of discrete data is θ. The measured durations are what users of the
authors' code get. Better code is in closed_forms.py.

`noise`, if it is passed, replaces the normals that torch would draw, and `sent` the class that it would draw.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal, VonMises

from bfn_kernels.schedules import VonMisesAccuracy

LOG_RANGE = 10
MIN_PROB = torch.finfo(torch.float32).eps  # torch's Categorical raises smaller probabilities to this value


def draw(distribution: Normal, shape: tuple[int, ...], noise: Tensor | None) -> Tensor:
    return distribution.sample(shape) if noise is None else distribution.loc + distribution.scale * noise


def continuous_flow_sample(x: Tensor, t: Tensor, noise: Tensor | None = None, *, sigma_1: float) -> Tensor:
    posterior_var = torch.pow(sigma_1**2, t)
    gamma = 1 - posterior_var
    mean_mean = gamma * x
    std = (gamma * posterior_var).sqrt()
    noise = torch.randn(x.shape, device=x.device) if noise is None else noise
    return mean_mean + std * noise


def continuous_update_sample(x, mean, precision, alpha, noise=None) -> Tensor:
    y = draw(Normal(x, 1.0 / alpha**0.5), (), noise)
    return (precision * mean + alpha * y) / (precision + alpha)


def continuous_continuous_time_loss(x: Tensor, prediction: Tensor, t: Tensor, *, sigma_1: float) -> Tensor:
    posterior_var = torch.pow(sigma_1**2, t)
    return -math.log(sigma_1) * (prediction.clip(-1, 1) - x).square() / posterior_var


class DiscretisedNormal:
    def __init__(self, pred_mean: Tensor, pred_log_std: Tensor, num_bins: int):
        width = 2.0 / num_bins
        std = pred_log_std.clamp(-LOG_RANGE, LOG_RANGE).exp().clamp(1e-3, 10)
        self.normal = Normal(pred_mean, std, validate_args=False)
        like: dict[str, Any] = {"dtype": pred_mean.dtype, "device": pred_mean.device}
        self.centres = torch.arange(width / 2 - 1, 1, width, **like)
        self.boundaries = torch.arange(width - 1, 1 - width / 2, width, **like)

    def probs(self) -> Tensor:
        cdf = self.normal.cdf(self.boundaries.reshape(-1, *[1] * self.normal.loc.dim()))
        first = torch.zeros_like(cdf[:1])
        cdf = torch.cat([first, cdf, torch.ones_like(first)], 0)
        return (cdf[1:] - cdf[:-1]).moveaxis(0, -1)


def discretised_continuous_time_loss(x, pred_mean, pred_log_std, t, *, num_bins: int, sigma_1: float) -> Tensor:
    output = DiscretisedNormal(pred_mean, pred_log_std, num_bins)
    expected = (output.probs() * output.centres).sum(-1)
    return -math.log(sigma_1) * (expected - x).square() / torch.pow(sigma_1**2, t)


def discretised_discrete_time_loss(
    x, pred_mean, pred_log_std, t, noise=None, *, num_bins: int, sigma_1: float, n_steps: int, n_samples: int
) -> Tensor:
    output = DiscretisedNormal(pred_mean, pred_log_std, num_bins)
    i = t * n_steps + 1
    alpha = sigma_1 ** (-2 * i / n_steps) * (1 - sigma_1 ** (2 / n_steps))
    sender = Normal(x, 1.0 / alpha**0.5)
    components = Normal(output.centres, (1.0 / alpha.sqrt()).unsqueeze(-1), validate_args=False)
    weights = Categorical(probs=output.probs(), validate_args=False)
    receiver = MixtureSameFamily(weights, components, validate_args=False)
    y = draw(sender, (n_samples,), noise)
    return n_steps * (sender.log_prob(y) - receiver.log_prob(y)).mean(0)


def sender(x: Tensor, alpha: Tensor, num_classes: int) -> Normal:
    e_x = F.one_hot(x, num_classes)
    alpha = alpha.unsqueeze(-1)
    return Normal(alpha * (num_classes * e_x - 1), (num_classes * alpha) ** 0.5)


def discrete_flow_sample(x: Tensor, t: Tensor, noise=None, *, num_classes: int, beta_1: float) -> Tensor:
    root_beta = t.clamp(max=1 - 1e-6) * math.sqrt(beta_1)
    early = root_beta < 1e-10
    beta = root_beta.clamp(min=1e-10).square().unsqueeze(-1)
    mean = (num_classes * F.one_hot(x, num_classes) - 1) * beta
    std = math.sqrt(num_classes) * beta.sqrt()
    counts = Normal(mean, std, validate_args=False)
    probs = F.softmax(draw(counts, (), noise), -1)
    return torch.where(early.unsqueeze(-1), torch.ones_like(probs) / num_classes, probs)


def discrete_theta(logits: Tensor) -> Tensor:
    return Categorical(logits=logits, validate_args=False).probs


def discrete_update_sample(output_logits, theta, alpha, noise=None, sent=None) -> Tensor:
    num_classes = theta.shape[-1]
    sent = Categorical(logits=output_logits, validate_args=False).sample() if sent is None else sent
    y = draw(sender(sent, alpha, num_classes), (), noise)
    updated = theta * y.exp()
    updated /= updated.sum(-1, keepdims=True)
    return updated


def discrete_continuous_time_loss(x: Tensor, logits: Tensor, t: Tensor, *, beta_1: float) -> Tensor:
    return squared_distance(x, Categorical(logits=logits, validate_args=False).probs, t, beta_1)


def squared_distance(x: Tensor, probs: Tensor, t: Tensor, beta_1: float) -> Tensor:
    num_classes = probs.shape[-1]
    distance = num_classes * (F.one_hot(x, num_classes) - probs).square().sum(-1)
    return t * beta_1 * distance


def discrete_reconstruction_loss(x: Tensor, logits: Tensor) -> Tensor:
    return -Categorical(logits=logits, validate_args=False).log_prob(x)


def discrete_discrete_time_loss(x, logits, t, noise=None, *, beta_1: float, n_steps: int, n_samples: int) -> Tensor:
    probs = Categorical(logits=logits, validate_args=False).probs
    return factorised_loss(x, probs, t, noise, beta_1, n_steps, n_samples)


def factorised_loss(x, probs, t, noise, beta_1: float, n_steps: int, n_samples: int) -> Tensor:
    """L_n with the factorised receiver: each coordinate of y has a separate mixture over classes."""
    num_classes = probs.shape[-1]
    alpha = (math.sqrt(beta_1) / n_steps) ** 2 * (2 * (t * n_steps + 1) - 1)
    message = sender(x, alpha, num_classes)
    classes = torch.arange(num_classes, device=x.device).view(1, 1, num_classes)
    components = sender(classes, alpha.unsqueeze(-1), num_classes)
    receiver = MixtureSameFamily(Categorical(probs=probs.unsqueeze(-2)), components)
    y = draw(message, (n_samples,), noise)
    return n_steps * (message.log_prob(y) - receiver.log_prob(y)).mean(0).sum(-1)


# Binary data are two classes, and their state is the probabilities of both. The network puts out the logit of class 1.


def both(p: Tensor) -> Tensor:
    """The probabilities of both classes, given the probability of class 1."""
    return torch.cat([1 - p.unsqueeze(-1), p.unsqueeze(-1)], -1)


def binary_flow_sample(x: Tensor, t: Tensor, noise=None, *, beta_1: float) -> Tensor:
    return discrete_flow_sample(x, t, noise, num_classes=2, beta_1=beta_1)


def binary_update_sample(output_logits, theta, alpha, noise=None, sent=None) -> Tensor:
    sent = Bernoulli(logits=output_logits, validate_args=False).sample().long() if sent is None else sent
    return discrete_update_sample(output_logits, theta, alpha, noise, sent)


def binary_continuous_time_loss(x: Tensor, logits: Tensor, t: Tensor, *, beta_1: float) -> Tensor:
    return squared_distance(x, both(Bernoulli(logits=logits, validate_args=False).probs), t, beta_1)


def binary_reconstruction_loss(x: Tensor, logits: Tensor) -> Tensor:
    return -Bernoulli(logits=logits, validate_args=False).log_prob(x.float())


def binary_discrete_time_loss(x, logits, t, noise=None, *, beta_1: float, n_steps: int, n_samples: int) -> Tensor:
    probs = both(Bernoulli(logits=logits, validate_args=False).probs)
    return factorised_loss(x, probs, t, noise, beta_1, n_steps, n_samples)


# Angles, after CrysBFN (arXiv 2502.02016).


def circular_flow_sample(x: Tensor, step: Tensor, y: Tensor | None = None, *, schedule: VonMisesAccuracy) -> Tensor:
    """Draws every message about every angle in float64. Returns the direction of the sum of all messages before `step`,
    weighted by their accuracies. step is at least 2. y: the messages, `[n, *x.shape]`."""
    alpha = schedule.alphas.to(x.device).view(-1, *[1] * x.dim())
    if y is None:
        wide = (len(alpha), *x.shape)
        y = VonMises(x.double().expand(wide), alpha.expand(wide)).sample()
    before = (step - 2).view(1, -1, *[1] * (x.dim() - 1)).expand(1, *x.shape)
    cosine, sine = ((alpha * part).cumsum(0).gather(0, before)[0] for part in (y.cos(), y.sin()))
    (cosine.square() + sine.square()).sqrt()  # the concentration
    return torch.atan2(sine, cosine)


def circular_renoise(pred: Tensor, step: Tensor, y: Tensor | None = None, *, schedule: VonMisesAccuracy) -> Tensor:
    return circular_flow_sample(pred, step, y, schedule=schedule)


def circular_discrete_time_loss(x: Tensor, pred: Tensor, step: Tensor, *, schedule: VonMisesAccuracy) -> Tensor:
    alpha = schedule.alphas.to(x.device)[step - 1].unsqueeze(-1).expand(x.shape)
    ratio = torch.special.i1e(alpha) / torch.special.i0e(alpha)
    return schedule.n_steps * alpha * ratio * (1 - torch.cos(x - pred))
