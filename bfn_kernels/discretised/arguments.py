"""The arguments that several public functions of discretised data share."""

from collections.abc import Sequence

from torch import Tensor

from bfn_kernels.call import checks
from bfn_kernels.call.keywords import read_mean

MAX_COMPONENTS = 1024
# The first four fields of `records.Network`: pred_mean, pred_log_std, mixture_logits and mean.
Output = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


def component_noises(mixture_logits: Tensor | None, noise: Tensor | None, shape: Sequence[int]) -> list[tuple]:
    """The noise that draws a component of a mixture, in the form that `drawn_seed` takes; nothing without a mixture."""
    if mixture_logits is not None:
        return [("component_noise", noise, shape)]
    if noise is not None:
        raise ValueError("component_noise must be None without mixture_logits")
    return []


def check_output(x: Tensor, name: str, output: Output, parametrisation: str) -> Output:
    """Checks the network's output against x; returns it, with None in the place of a mean that is not read."""
    pred_mean, pred_log_std, mixture_logits, mean = output
    checks.data(name, x)
    each: Sequence[int] = x.shape
    if mixture_logits is not None:
        checks.components("mixture_logits", mixture_logits, MAX_COMPONENTS)
        each = (*x.shape, mixture_logits.shape[-1])
        checks.like("mixture_logits", mixture_logits, name, x, each)
    checks.like("pred_mean", pred_mean, name, x, each if pred_log_std is not None else (*each, 2))
    if pred_log_std is not None:
        checks.like("pred_log_std", pred_log_std, name, x, each)
    return pred_mean, pred_log_std, mixture_logits, read_mean(x, mean, parametrisation)
