"""A training step without its network: a flow sample and the loss of what the network makes of it.

In the place of the network stands a bias that is added to its input, so that nobody can leave out the flow.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.closed_forms import column

FLOWS = {"binary": "binary", "discrete": "discrete", "discretised": "continuous"}  # the family that has the flow


def of_logits(flow: Callable, loss: Callable) -> Callable:
    def step(x: Tensor, logits: Tensor, t: Tensor, **noise: Tensor) -> Tensor:
        seen = flow(x=x, t=t, **noise)
        if logits.shape == x.shape:  # one logit, whose network sees 2θ₁ − 1; the published flow has both θ
            seen = 2 * (seen if seen.shape == x.shape else seen[..., 1]) - 1
        return loss(x=x, logits=logits + seen, t=t)

    return step


def of_noise(flow: Callable, loss: Callable) -> Callable:
    """For a loss that takes what the network says of the noise."""

    def step(x: Tensor, pred_mean: Tensor, pred_log_std: Tensor, t: Tensor, **noise: Tensor) -> Tensor:
        mean = flow(x=x, t=t, **noise)
        output = {"pred_mean": pred_mean + mean, "pred_log_std": pred_log_std, "mean": mean}
        return loss(x=x, t=t, **output, parametrisation="noise")

    return step


def of_data(flow: Callable, loss: Any) -> Callable:
    """For a loss that takes a prediction of the data, which is made of that of the noise first (105, 106)."""

    def step(x: Tensor, pred_mean: Tensor, pred_log_std: Tensor, t: Tensor, **noise: Tensor) -> Tensor:
        mean = flow(x=x, t=t, **noise)
        log_variance = 2 * math.log(loss.keywords["sigma_1"]) * (t if t.shape == x.shape else column(t))
        gamma = -log_variance.expm1()
        scale = (log_variance.exp() / gamma).sqrt()
        output = {"pred_mean": mean / gamma - scale * (pred_mean + mean), "pred_log_std": pred_log_std + scale.log()}
        return loss(x=x, t=t, **output)

    return step


OURS = {"binary": of_logits, "discrete": of_logits, "discretised": of_noise}
THEIRS = OURS | {"discretised": of_data}
