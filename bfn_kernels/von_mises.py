"""The accuracies of von Mises messages, a schedule of angles."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from bfn_kernels import checks
from bfn_kernels.concentrations import PRIOR, QUANTILES, WIDE, entropy, laws, linear_laws, ratio, table_of
from bfn_kernels.solvers import Coefficients
from bfn_kernels.torch_private import outside_modes


class VonMisesAccuracy:
    """The accuracies of n von Mises messages about an angle: a schedule of `circular`. Do not change its attributes.

    Args:
        alphas: α_1 … α_n, positive and finite: numbers, or a tensor `[n]` without a gradient. The least number and the
            sum must be in the range of float32, which is the type of the table.

    Attributes:
        alphas: The accuracies, float64 `[n]` on the CPU.
        weights: n·α·A(α) of each message, the factor of 1 - cos(x - x̂) in L_n, float64 `[n]` on the CPU.
        step_weights: The weights of the steps 0 … n + 1, NaN for 0 and n + 1, which are no steps, float64 on the CPU.
        progress: Σ α·A(α), the mean of the concentration times the cosine of the mean's error after all messages.
        digest: A short string by which compiled code notices other accuracies.
        total: Σ α, the largest concentration of a state.
        log_scale: A pair `least`, `factor`. (ln c - least)·factor - 1 is -1 if the concentration c is the smallest
            accuracy. If n > 1, it is 1 if c is the sum of all accuracies, the largest concentration.

    Example:
        >>> schedule = VonMisesAccuracy([0.5, 1.0, 2.0])
        >>> schedule.n_steps, schedule.table.shape
        (3, torch.Size([4, 256]))
    """

    def __init__(self, alphas: Sequence[float] | Tensor):
        checks.no_derivative("alphas", alphas)
        self.alphas = torch.as_tensor(alphas, **WIDE).detach().clone()
        tiny = torch.finfo(torch.float32).tiny
        if self.alphas.dim() != 1 or not (self.alphas >= tiny).all() or not 0 < self.alphas.sum().float() < math.inf:
            raise ValueError(
                f"alphas must be a vector of positive, finite numbers, at least {tiny} with a sum below 3.4e38, "
                f"got {alphas}"
            )
        self.weights = len(self.alphas) * self.alphas * ratio(self.alphas)
        self.step_weights = torch.nn.functional.pad(self.weights, (1, 1), value=torch.nan)
        self.progress = float((self.alphas * ratio(self.alphas)).sum())
        self.total = float(self.alphas.sum())
        least = math.log(self.alphas.min())
        self.log_scale = least, 2 / max(math.log(self.total) - least, 1e-6)
        self.digest = str(hash(tuple(self.alphas.tolist())))
        self._copies: dict[tuple[torch.device, str, torch.dtype], Tensor] = {}
        _LIVING.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copies": {}}  # the device of a copy may be missing where the state is read

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        _LIVING.add(self)

    @classmethod
    def linear_entropy(cls, n_steps: int, last: float) -> "VonMisesAccuracy":
        """Finds the accuracies for which the expected entropy of the state falls by the same amount in each step.

        Args:
            n_steps: n, the number of steps, at least 1.
            last: The concentration whose entropy is reached after the last message, in [1e-6, 1e6]; published code
                takes 1000.

        Returns:
            The schedule.

        Example:
            >>> VonMisesAccuracy.linear_entropy(1, 9.0).alphas
            tensor([9.0000], dtype=torch.float64)
        """
        found = linear_laws(checks.integer("n_steps", n_steps, 1), checks.number("last", last, 1e-6, 1e6))
        alphas, each_law = zip(*found, strict=True)
        schedule = cls(alphas)
        # The search has already computed the laws, so the table is stored here.
        schedule.table = table_of((PRIOR, *each_law))
        return schedule

    @property
    def n_steps(self) -> int:
        """n, the number of messages."""
        return len(self.alphas)

    @cached_property
    def table(self) -> Tensor:
        """The quantiles of the concentration after 0 … n messages, float32 `[n + 1, 256]`, at the probabilities Φ(z)
        for 256 equidistant z from -6 to 6. The first access computes them."""
        with outside_modes():  # under a fake mode, the property would keep a fake tensor for all later calls
            return table_of((PRIOR, *laws(self.alphas.tolist())))

    def alpha(self, i: Tensor, n: int) -> Tensor:
        """Returns α_i, float64 of i's shape.

        Args:
            i: Which of the messages, from 1 to n: a tensor of any shape and any type.
            n: The number of messages, which must be `n_steps`.
        """
        if n != self.n_steps:
            raise ValueError(f"n_steps must be {self.n_steps}, the number of the schedule's accuracies, got {n}")
        return self.alphas.to(i.device)[i.long() - 1]

    def step_at(self, t: Tensor) -> Tensor:
        """Returns the step i that starts at time t = (i - 1)/n. For t = 1, it returns n + 1.

        Args:
            t: Times (i − 1)/n or 1, floating-point, of any shape. Any other time is a ValueError on the CPU. On other
                devices and in compiled code, it gives 0.

        Returns:
            Steps, int64 of t's shape.
        """
        t = t.to(checks.widest(t.device))
        checks.steps("t", t.where(t != 1, 0), self.n_steps)
        return checks.step_of(t, self.n_steps).where(t != 1, self.n_steps + 1).nan_to_num(0).long()

    def coefficients(self, rule: str, t_next: float | Tensor) -> Coefficients:
        """Returns the numbers of a step of "renoise", the only rule for angles. `take` is the step that starts next.

        Args:
            rule: A name of `solvers.RULES`.
            t_next: Times (i − 1)/n or 1 at which steps end: a number, or a floating-point tensor of any shape.
        """
        if rule != "renoise":
            raise ValueError(f'sampler must be "ancestral" or "renoise" for circular data, got {rule!r}')
        times = t_next if isinstance(t_next, Tensor) else torch.tensor(t_next, **WIDE)
        return Coefficients(None, self.step_at(times).to(times.dtype))

    def entropies(self) -> Tensor:
        """Returns the expected entropy of the state in nats after 0 … n messages, float64 `[n + 1]`."""
        each = [law.mean(entropy(law.nodes)) for law in (PRIOR, *laws(self.alphas.tolist()))]
        return torch.tensor(each, **WIDE)

    def on(self, device: torch.device, name: str = "table", dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns `table` or `step_weights` on a device. Keeps the copy on the device for later calls. Compiled
        code copies the numbers in each call.

        Args:
            device: The device of the result.
            name: "table" or "step_weights".
            dtype: Floating-point type of the result, by default float32.
        """
        if torch.compiler.is_compiling():
            shape = [self.n_steps + 1, QUANTILES] if name == "table" else [self.n_steps + 2]
            return _numbers_of(self.digest, name, shape, device, dtype)
        key = device, name, dtype
        if key not in self._copies:
            self._copies[key] = getattr(self, name).to(dtype).to(device)
        return self._copies[key]


VonMisesAccuracy.__module__ = f"{__package__}.schedules"  # where it is public, so that pickles name a public module

_LIVING: WeakSet[VonMisesAccuracy] = WeakSet()  # The schedules of this process.


@torch.library.custom_op(f"{__package__}::numbers_of_schedule", mutates_args=())
def _numbers_of(digest: str, name: str, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    # Compiled code knows a schedule by its digest, and any schedule of this digest has the numbers.
    for schedule in _LIVING:
        if schedule.digest == digest:
            # The compiler may write into the result of this operator, so the result is a clone.
            return schedule.on(device, name, dtype).clone()
    raise RuntimeError(
        "compiled code needs the VonMisesAccuracy with which it was compiled, or one with equal alphas. None of them "
        "exists any more, so keep one of them"
    )


@_numbers_of.register_fake
def _(digest: str, name: str, shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)
