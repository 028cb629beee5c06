"""The accuracies of von Mises messages, and the law (the probability distribution) of the concentration after some of
these messages.

Quadrature in float64 gives the laws. docs/mathematics/circular.md derives the formulas that are marked [derived]. A law
is a set of nodes with weights, which may be slightly negative.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.special import i0e, i1e

from bfn_kernels.call import checks
from bfn_kernels.torch_private import constant, outside_modes

QUANTILES = 256  # csrc/math/circular.h has the same QUANTILES and TABLE_END, and reads the table of quantiles
TABLE_END = 6.0  # the quantiles are at probabilities Φ(z), for equidistant z from −TABLE_END to TABLE_END
_NODES = 768  # the number of nodes of a law after eleven or more messages
_STENCIL = 6  # the number of nodes that share a weight, so that moments up to the fifth do not change


class Law(NamedTuple):
    """The law of a concentration: `nodes` in ascending order, and their `weights`."""

    nodes: Tensor
    weights: Tensor

    def mean(self, function_of_nodes: Tensor) -> float:
        return float(self.weights @ function_of_nodes)


_WIDE: Any = {"dtype": torch.float64, "device": "cpu"}  # torch's default device may be another
PRIOR = Law(*torch.tensor([[0.0], [1.0]], **_WIDE))  # before the first message


def ratio(concentration: Tensor) -> Tensor:
    """A = I₁/I₀, the mean cosine of a von Mises distribution."""
    return i1e(concentration) / i0e(concentration)


def entropy(concentration: Tensor) -> Tensor:
    """The entropy of a von Mises distribution in nats, ln(2πI₀(c)) − c·A(c)."""
    return math.log(2 * math.pi) + i0e(concentration).log() + concentration * (1 - ratio(concentration))


def entropy_fall(concentration: Tensor) -> Tensor:
    """Returns how far the entropy lies below ln 2π, the entropy of the concentration 0: c·A(c) − ln I₀(c). For small c,
    the difference of the two entropies would lose its digits, so the function computes a series."""
    x = concentration.square() / 4
    series = x * (1 - x * (3 / 4 - x * (5 / 9 - x * (77 / 192 - x * (57 / 200)))))
    return torch.where(concentration < 0.1, series, math.log(2 * math.pi) - entropy(concentration))


def _moved(law: Law, alpha: float, least: int = 1) -> tuple[Tensor, Tensor]:
    """The concentrations c' after a message, `[nodes, angles]`, and their weights. The angles are the points of the
    midpoint rule for φ in (0, π), whose density is I₀(c')/(2π·I₀(α)·I₀(c)) [derived]. least: the least count
    of angles."""
    c = law.nodes.unsqueeze(-1)
    count = max(int(4 * math.sqrt(alpha)) + 12, least)
    half = (torch.arange(count, **_WIDE) + 0.5) * (math.pi / (2 * count))
    moved = ((c - alpha).square() + 4 * alpha * c * half.cos().square()).sqrt()
    normaliser = i0e(torch.tensor(alpha, **_WIDE)) * i0e(c) * count
    return moved, law.weights.unsqueeze(-1) * i0e(moved) / normaliser * (moved - c - alpha).exp()


def _after(law: Law, alpha: float) -> Law:
    """The law after one more message.

    After two messages, the density has poles at its ends. The nodes are then the concentrations for the angles of
    `_moved`. Later, they are numbers at equal distances, up to 9 standard deviations from the mean. Their count falls
    to _NODES by a quarter in each message, since the density becomes smooth only after some messages. Each weight is
    divided among the _STENCIL nodes around its concentration, as in Lagrange's interpolation.
    """
    if law is PRIOR:
        return Law(law.nodes + alpha, law.weights)
    if len(law.nodes) == 1:
        return Law(*(each.flatten().flip(0) for each in _moved(law, alpha, 8 * _NODES)))
    moved, weights = _moved(law, alpha, 32 if len(law.nodes) == _NODES else 256)
    mean = float((weights * moved).sum())
    std = math.sqrt(max(float((weights * (moved - mean).square()).sum()), 0.0))
    low, high = max(0.0, mean - 9 * std), min(float(law.nodes[-1]) + alpha, mean + 9 * std)
    count = max(_NODES, 3 * len(law.nodes) // 4)
    width = (high - low) / (count - 1)
    place = (moved.clamp(low, high) - low).flatten() / width
    first = (place.floor() - (_STENCIL // 2 - 1)).clamp(max=count - _STENCIL)
    # functions of the concentration are even, so that a node below 0 stands for its mirror image above 0
    first = first.clamp(min=0 if low > 0 else -_STENCIL)
    gathered, index = torch.zeros(count, **_WIDE), first.long()
    offsets = [place - first - j for j in range(_STENCIL)]
    for k in range(_STENCIL):
        others = [j for j in range(_STENCIL) if j != k]
        share = weights.flatten() / math.prod(k - j for j in others)
        for j in others:
            share *= offsets[j]
        gathered.index_add_(0, (index + k).abs(), share)
    return Law(low + width * torch.arange(count, **_WIDE), gathered)


def laws(alphas: Sequence[float]) -> Iterator[Law]:
    """The laws after one message, after two, and so on."""
    return itertools.islice(itertools.accumulate(alphas, _after, initial=PRIOR), 1, None)


def quantiles(law: Law) -> Tensor:
    """The c with F(c) = Φ(z) for QUANTILES equidistant z from −TABLE_END to TABLE_END, where F is the distribution
    function of the law. Between two nodes, Φ⁻¹(F(c)) is interpolated, since it is nearly linear for most laws."""
    if len(law.nodes) == 1:
        return law.nodes.expand(QUANTILES)
    nodes, weights = law
    # The cumulative sum of the weights is a midpoint rule for F; `bend` is its correction of second order.
    bend = torch.nn.functional.pad(weights.diff(), (0, 1)) / 24
    below = (weights.cumsum(0) + bend).clamp(1e-300, 1).cummax(0).values
    above = (weights.flip(0).cumsum(0).flip(0) - weights - bend).clamp(1e-300, 1).flip(0).cummax(0).values.flip(0)
    z = torch.where(below < 0.5, torch.special.ndtri(below), -torch.special.ndtri(above)).cummax(0).values
    ends = torch.cat([(nodes[1:] + nodes[:-1]) / 2, nodes[-1:]])
    z, ends = torch.cat([z.new_tensor([-40.0]), z]), torch.cat([nodes[:1], ends])
    wanted = torch.linspace(-TABLE_END, TABLE_END, QUANTILES, **_WIDE)
    right = torch.searchsorted(z, wanted).clamp(1, len(z) - 1)
    part = ((wanted - z[right - 1]) / (z[right] - z[right - 1]).clamp(min=1e-12)).clamp(0, 1)
    found = ends[right - 1] + part * (ends[right] - ends[right - 1])
    found[1:-1] -= found.diff(n=2) / 12  # so that the mean error of a linear interpolation in the table is 0
    return found.clamp(nodes[0], nodes[-1])


class VonMisesAccuracy:
    """The accuracies of n von Mises messages about an angle: a schedule of `circular`. Do not change its attributes.

    Args:
        alphas: α_1 … α_n, positive and finite: numbers, or a tensor `[n]` without a gradient.

    Attributes:
        alphas: The accuracies, float64 `[n]` on the CPU.
        weights: n·α·A(α) of each message, the factor of 1 - cos(x - x̂) in L_n, float64 `[n]` on the CPU.
        step_weights: The weights of the steps 0 … n + 1, NaN for 0 and n + 1, which are no steps, float64 on the CPU.
        progress: Σ α·A(α), the mean of the concentration times the cosine of the mean's error after all messages.
        digest: A short string by which compiled code notices other accuracies.
        log_scale: A pair `least`, `factor`. (ln c - least)·factor - 1 is -1 if the concentration c is the smallest
            accuracy. If n > 1, it is 1 if c is the sum of all accuracies, the largest concentration.

    Example:
        >>> schedule = VonMisesAccuracy([0.5, 1.0, 2.0])
        >>> schedule.n_steps, schedule.table.shape
        (3, torch.Size([4, 256]))
    """

    def __init__(self, alphas: Sequence[float] | Tensor):
        checks.no_derivative("alphas", alphas)
        self.alphas = torch.as_tensor(alphas, **_WIDE).detach().clone()
        if self.alphas.dim() != 1 or not len(self.alphas) or not ((self.alphas > 0) & self.alphas.isfinite()).all():
            raise ValueError(f"alphas must be a vector of positive, finite numbers, got {alphas}")
        self.weights = len(self.alphas) * self.alphas * ratio(self.alphas)
        self.step_weights = torch.nn.functional.pad(self.weights, (1, 1), value=torch.nan)
        self.progress = float((self.alphas * ratio(self.alphas)).sum())
        least = math.log(self.alphas.min())
        self.log_scale = least, 2 / max(math.log(self.alphas.sum()) - least, 1e-6)
        self.digest = str(hash(tuple(self.alphas.tolist())))
        self._copies: dict[tuple[torch.device, str, torch.dtype], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_copies": {}}  # the device of a copy may be missing where the state is read

    @classmethod
    def linear_entropy(cls, n_steps: int, last: float) -> "VonMisesAccuracy":
        """Finds the accuracies for which the expected entropy of the state falls by the same amount in each step.

        Args:
            n_steps: n, at least 1.
            last: The concentration whose entropy is reached after the last message, in [1e-6, 1e6]; published
                code takes 1000.

        Returns:
            The schedule.

        Example:
            >>> VonMisesAccuracy.linear_entropy(1, 9.0).alphas
            tensor([9.0000], dtype=torch.float64)
        """
        n_steps = checks.integer("n_steps", n_steps, 1)
        total = float(entropy_fall(torch.tensor(checks.number("last", last, 1e-6, 1e6), **_WIDE)))
        tolerance = min(1e-10, 1e-6 * total / n_steps)  # if `last` is small, the fall in a step is below 1e-10
        law, alphas = PRIOR, [1.0]  # the first number is where the search for α_1 starts
        for step in range(1, n_steps + 1):
            alphas.append(_accuracy(law, total * step / n_steps, tolerance, alphas[-1]))
            law = _after(law, alphas[-1])
        return cls(alphas[1:])

    @property
    def n_steps(self) -> int:
        """n, the number of messages."""
        return len(self.alphas)

    @cached_property
    def table(self) -> Tensor:
        """The quantiles of the concentration after 0 … n messages, float32 `[n + 1, 256]`, at the probabilities Φ(z)
        for 256 equidistant z from -6 to 6. The first access computes them."""
        with outside_modes():  # under a fake mode, the property would keep a fake tensor for all later calls
            return torch.stack([quantiles(law).float() for law in (PRIOR, *laws(self.alphas.tolist()))])

    def alpha(self, i: Tensor, n: int) -> Tensor:
        """Returns α_i, float64 of i's shape.

        Args:
            i: Which of the messages, from 1 to n, of any shape and any type.
            n: Number of messages, which must be `n_steps`.
        """
        if n != self.n_steps:
            raise ValueError(f"n_steps must be {self.n_steps}, the number of the schedule's accuracies, got {n}")
        return self.alphas.to(i.device)[i.long() - 1]

    def entropies(self) -> Tensor:
        """Returns the expected entropy of the state in nats after 0 … n messages, float64 `[n + 1]`."""
        each = [law.mean(entropy(law.nodes)) for law in (PRIOR, *laws(self.alphas.tolist()))]
        return torch.tensor(each, **_WIDE)

    @constant
    def on(
        self, device: torch.device, name: str = "table", dtype: torch.dtype = torch.float32, digest: str = ""
    ) -> Tensor:
        """Returns `table` or `step_weights` on a device.

        Args:
            device: The device. A copy stays there for later calls.
            name: "table" or "step_weights".
            dtype: The type of the copy.
            digest: The schedule's `digest`. Compiled code calls this method again for another digest. It does not
                notice another schedule with the same digest.
        """
        key = device, name, dtype
        if key not in self._copies:
            self._copies[key] = getattr(self, name).to(dtype).to(device)
        return self._copies[key]


def _accuracy(law: Law, wanted: float, tolerance: float, guess: float) -> float:
    """Returns the accuracy of a message after which the expected entropy has fallen by `wanted`, up to the tolerance.
    The secant method searches for ln α. Each of its steps changes ln α by at most 1."""

    def excess(log_alpha: float) -> float:
        moved, weights = _moved(law, math.exp(log_alpha))
        return float((weights * entropy_fall(moved)).sum()) - wanted

    before, here = math.log(guess), math.log(guess) + 0.05
    at_before, at_here = excess(before), excess(here)
    for _ in range(100):
        if abs(at_here) < tolerance or at_here == at_before:
            break
        step = at_here * (here - before) / (at_here - at_before)
        before, at_before = here, at_here
        here -= min(max(step, -1.0), 1.0)
        at_here = excess(here)
    return math.exp(here)
