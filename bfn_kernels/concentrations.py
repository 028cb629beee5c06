"""The law (the probability distribution) of the concentration after some von Mises messages.

Quadrature in float64 gives the laws. docs/mathematics/circular.md derives the formulas that are marked [derived]. A law
is a set of nodes with weights, which may be slightly negative.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.special import i0e, i1e

from bfn_kernels.torch_private import outside_modes

QUANTILES = 256  # csrc/math/circular.h has the same QUANTILES and TABLE_END, and reads the table of quantiles
TABLE_END = 6.0  # the quantiles are at probabilities Φ(z), for equidistant z from −TABLE_END to TABLE_END
_NODES = 192  # the number of nodes of a smooth law
_FINER = 1, 4, 16  # a law that is not smooth has so many times as many nodes
_ROUGH = 2e-3  # the largest second difference of the weights of a smooth law
# The law after two messages has _THINNED times the nodes that its quantiles need. The next message uses every
# _THINNED-th node.
_THINNED = 9
_ANGLES = 16  # the number of angles of a message to each node, if the law after the message is smooth
_PAIRS = 2048  # the most pairs of a node and an angle at once; with more, torch would start threads for each operation
_EXPONENT = 30.0  # a density is negligible where it is e^(−_EXPONENT) of the largest density
_NEGLIGIBLE = 1e-17  # Weights of at most this size are removed at both ends of a law.
_POINT = 1e-13  # a law whose range is smaller, relative to the concentration, is a point
_BATCH = 96  # how many laws become rows of the table at once; with more, torch would start threads, too


class Law(NamedTuple):
    """The law of a concentration: `nodes` in ascending order, and their `weights`."""

    nodes: Tensor
    weights: Tensor

    def mean(self, function_of_nodes: Tensor) -> float:
        return float(self.weights @ function_of_nodes)


WIDE: Any = {"dtype": torch.float64, "device": "cpu"}  # torch's default device may be another
# Lagrange's interpolation from the nodes −2 … 3 to a place in (0, 1): the nodes, and the products of their distances.
_STENCIL = torch.arange(-2, 4, **WIDE).unsqueeze(-1)
_PLACES = torch.arange(6, device="cpu").unsqueeze(-1)
_PRODUCTS = torch.tensor([[-120.0], [24.0], [-12.0], [12.0], [-24.0], [120.0]], **WIDE)
PRIOR = Law(*torch.tensor([[0.0], [1.0]], **WIDE))  # before the first message


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


def _even_scale(concentration: Tensor) -> Tensor:
    """√(c² + 4) − c. The product I₀(c)·e^(−√(c² + 4)) is a function of c² that hardly changes between two nodes."""
    return (concentration.square() + 4).sqrt() - concentration


def _scaled_bessel(concentration: Tensor) -> Tensor:
    """I₀(c)·e^(−√(c² + 4))."""
    return i0e(concentration) * (-_even_scale(concentration)).exp()


@functools.cache
def _squares(count: int) -> tuple[Tensor, Tensor]:
    """sin²ψ and cos²ψ at the points of the midpoint rule for ψ in (0, π/2)."""
    with outside_modes():
        psi = (torch.arange(count, **WIDE) + 0.5) * (math.pi / (2 * count))
        return psi.sin().square(), psi.cos().square()


def _moved(law: Law, alpha: float, count: int) -> tuple[Tensor, Tensor]:
    """The concentrations c' after a message, `[nodes, count]`, and their weights, divided by `_scaled_bessel(c')`.

    The angle φ of the message to the mean has the density I₀(c')/(2π·I₀(α)·I₀(c)) [derived]. With sin(φ/2) = σ·sin ψ,
    the angles are the points of the midpoint rule for ψ in (0, π/2). σ is 1, or smaller if the density at φ = π is
    negligible. Then the angles lie where the density is not negligible.
    """
    c = law.nodes.unsqueeze(-1)
    whole = c + alpha
    most = 4 * (alpha / whole) * c  # the density is about e^(−most/2·sin²(φ/2)) of the largest, or smaller
    reach = (2 * _EXPONENT / most).clamp(max=1)  # σ²
    squared_sines, squared_cosines = _squares(count)
    slope, beyond = most / whole * reach, 1 - reach
    root = torch.addcmul(((c - alpha) / whole).square() + most / whole * beyond, slope, squared_cosines).sqrt()
    moved = whole * root
    fall = most * reach * squared_sines / (1 + root)  # c + α − c', without a difference of large numbers
    weights = law.weights.unsqueeze(-1) / (i0e(torch.tensor(alpha, **WIDE)) * i0e(c) * count)
    weights = weights * (_even_scale(moved) - fall).exp()
    if 2 * alpha > _EXPONENT:  # otherwise σ is 1 for every node, and the derivative of φ by ψ is constant
        weights *= (reach * squared_cosines / (beyond + reach * squared_cosines)).sqrt()
    return moved, weights


def _range(law: Law, alpha: float) -> tuple[float, float, float]:
    """The least and the largest concentration after a message, and the width of the law before it. Concentrations below
    the least one are left out, since their density is negligible."""
    largest = float(law.nodes[-1])
    first, second, last_but_one, last = (law.nodes[[0, 1, -2, -1]] / largest).square().tolist()
    ends = (9 * first - second) / 8, (9 * last - last_but_one) / 8
    low, high = (largest * math.sqrt(max(end, 0.0)) for end in ends)
    least = high + alpha
    for c in (low, min(max(alpha, low), high)):
        most = 4 * alpha / (c + alpha) * c
        least = min(least, math.sqrt((c - alpha) ** 2 + (c + alpha) * max(most - 2 * _EXPONENT, 0.0)))
    return least, high + alpha, high - low


def _gathered(law: Law, alpha: float, angles: int, count: int) -> Law:
    """The law after a message, with `count` nodes, or a single one if the law is a point in float64.

    The nodes are c² = low² + (high² − low²)·sin²θ for equidistant θ, dense at both ends, where the density may have
    poles. Each weight is divided among the six nodes around its concentration, as in Lagrange's interpolation.
    A function of c² is even in θ at both ends, so a node beyond an end stands for its mirror image.
    """
    low, high, _ = _range(law, alpha)
    if high - low <= _POINT * high:
        return Law(PRIOR.nodes + (low + high) / 2, PRIOR.weights)
    share = low / high
    nodes = high * (share**2 + (1 - share) * (1 + share) * _squares(count)[0]).sqrt()
    padded = torch.zeros(count + 6, **WIDE)
    for some in zip(*(each.split(_PAIRS // angles) for each in law), strict=True):
        moved, weights = _moved(Law(*some), alpha, angles)
        part = ((moved - low) * (moved + low) / ((high - low) * (high + low))).flatten().clamp_(0, 1)  # sin²θ
        # torch's asin would start threads
        place = torch.atan2((part * (1 - part)).sqrt_(), 0.5 - part).mul_(count / math.pi).sub_(0.5)
        first = place.floor()
        offset = (place - first).sub(_STENCIL)
        one, two, three = (offset[::2] * offset[1::2]).unbind()
        weights = weights.flatten()
        others = torch.stack([weights * two * three, weights * one * three, weights * one * two]).unsqueeze(1)
        shares = (offset.unflatten(0, (3, 2)).flip(1) * others).flatten(0, 1).div_(_PRODUCTS)
        index = (first + 1).long() + _PLACES
        padded += torch.bincount(index.flatten(), shares.flatten(), count + 6)
    gathered = padded[3:-3]
    gathered[:3] += padded[:3].flip(0)
    gathered[-3:] += padded[-3:].flip(0)
    return Law(nodes, gathered * _scaled_bessel(nodes))


def _after(law: Law, alpha: float) -> Law:
    """The law after one more message."""
    law = _essential(law)
    return _smooth(_coarsely(law, alpha), law, alpha)


def _coarsely(law: Law, alpha: float) -> Law:
    """The law after one more message, with _NODES nodes from the third message on. Means of functions of c² are right
    with these nodes, but quantiles only if the density is smooth. After two messages, the nodes are the concentrations
    for the angles of `_moved`."""
    if law is PRIOR:
        return Law(law.nodes + alpha, law.weights)
    if len(law.nodes) > 1:
        return _gathered(law, alpha, min(10 + int(alpha / 2), _ANGLES), _NODES)
    moved, weights = (each.flatten().flip(0) for each in _moved(law, alpha, _THINNED * _FINER[1] * _NODES))
    if moved[-1] - moved[0] <= _POINT * moved[-1]:
        return Law(moved[:1], PRIOR.weights)
    return Law(moved, weights * _scaled_bessel(moved))


def _smooth(after: Law, law: Law, alpha: float) -> Law:
    """Returns `after`, if its density is smooth. Otherwise computes the law again with more angles, and then with more
    nodes.

    If a message spreads less than the distance of two of _NODES nodes, finer nodes would show the old nodes one by one.
    """
    count = len(law.nodes)
    if 1 < count <= _NODES and 2 * alpha * count < law.nodes[-1] - law.nodes[0]:
        return after
    for finer in _FINER if count > 1 else ():
        if len(after.nodes) > 1 and float(after.weights.diff(n=2).abs().max()) > _ROUGH:
            low, high, width = _range(law, alpha)
            angles = min(max(int(640 * ((high - low) / width - 1)), _ANGLES), _PAIRS // 2)
            after = _gathered(law, alpha, angles, finer * _NODES)
    return after


def _essential(law: Law) -> Law:
    """Removes negligible weights at the ends. A law after two messages keeps every ninth node. These nodes are a
    midpoint rule, too."""
    if len(law.nodes) == 1:
        return law
    if len(law.nodes) > _FINER[-1] * _NODES:
        law = Law(law.nodes[_THINNED // 2 :: _THINNED], _THINNED * law.weights[_THINNED // 2 :: _THINNED])
    kept = (law.weights.abs() > _NEGLIGIBLE).nonzero()
    return Law(*(each[kept[0] : kept[-1] + 1] for each in law))


def laws(alphas: Sequence[float]) -> Iterator[Law]:
    """The laws after one message, after two, and so on.

    A message below the least distance of two nodes shifts the nodes, and waits. Messages that wait are applied as one
    when together they reach this distance. If each were applied alone, the errors of the interpolations would add up.
    This distance is below 1. Small messages of accuracies α_i act like one message of accuracy √(Σ α_i²) [derived].
    """
    law, waiting, least = PRIOR, 0.0, 0.0
    for alpha in alphas:
        waiting = math.hypot(waiting, alpha)
        if waiting < least:
            yield _shifted(law, waiting)
        else:
            law, waiting = _after(law, waiting), 0.0
            least = float(_essential(law).nodes.diff().min()) if len(law.nodes) > 1 else 0.0
            yield law


def _shifted(law: Law, alpha: float) -> Law:
    """The law after a message whose spread is negligible. Each c² becomes the mean of c'² given c."""
    accuracy = torch.tensor(alpha, **WIDE)
    added = accuracy.square() + 2 * law.nodes * ratio(law.nodes) * accuracy * ratio(accuracy)
    return Law((law.nodes.square() + added).sqrt(), law.weights)


def quantiles(law: Law) -> Tensor:
    """The c with F(c) = Φ(z) for QUANTILES equidistant z from −TABLE_END to TABLE_END, where F is the distribution
    function of the law. Between two nodes, Φ⁻¹(F(c)) is interpolated, since it is nearly linear for most laws. Nodes
    and weights may have leading dimensions, one law for each place."""
    nodes, weights = law
    if nodes.shape[-1] == 1:
        return nodes.expand(*nodes.shape[:-1], QUANTILES)
    # The cumulative sum of the weights is a midpoint rule for F; `bend` is its correction of second order.
    bend = torch.nn.functional.pad(weights.diff(), (0, 1)) / 24
    below = (weights.cumsum(-1) + bend).clamp(1e-300, 1).cummax(-1).values
    above = (weights.flip(-1).cumsum(-1).flip(-1) - weights - bend).clamp(1e-300, 1).flip(-1).cummax(-1).values.flip(-1)
    z = torch.where(below < 0.5, torch.special.ndtri(below), -torch.special.ndtri(above)).cummax(-1).values
    z = torch.nn.functional.pad(z, (1, 0), value=-40.0)
    # c² is even in θ at both ends of the law
    squares = torch.cat([nodes[..., :2].flip(-1), nodes, nodes[..., -2:].flip(-1)], -1).square()
    inner, outer = squares[..., 1:-2] + squares[..., 2:-1], squares[..., :-3] + squares[..., 3:]
    ends = ((9 * inner - outer) / 16).clamp(min=0).sqrt()
    wanted = torch.linspace(-TABLE_END, TABLE_END, QUANTILES, **WIDE).expand(*z.shape[:-1], -1)
    # For each wanted z, this counts the z of the law below it. torch.searchsorted would start threads, which spin.
    first = ((z / TABLE_END + 1) * ((QUANTILES - 1) / 2)).ceil().clamp(0, QUANTILES).long()
    below = first.new_zeros(*z.shape[:-1], QUANTILES + 1).scatter_add_(-1, first, torch.ones_like(first))
    right = below.cumsum(-1)[..., :-1].clamp(1, z.shape[-1] - 1)
    (low_z, high_z), (low, high) = ((each.gather(-1, right - 1), each.gather(-1, right)) for each in (z, ends))
    found = low + ((wanted - low_z) / (high_z - low_z).clamp(min=1e-12)).clamp(0, 1) * (high - low)
    found[..., 1:-1] -= found.diff(n=2) / 12  # so that the mean error of a linear interpolation in the table is 0
    return found.cummax(-1).values.clamp(nodes[..., :1], nodes[..., -1:])


def table_of(each_law: Iterable[Law]) -> Tensor:
    """The quantiles of many laws, float32. Laws with equally many nodes are handled together."""
    rows = []
    for _, group in itertools.groupby(enumerate(each_law), lambda pair: (len(pair[1].nodes), pair[0] // _BATCH)):
        nodes, weights = zip(*(law for _, law in group), strict=True)
        rows.append(quantiles(Law(torch.stack(nodes), torch.stack(weights))).float())
    return torch.cat(rows)


def linear_laws(n_steps: int, last: float) -> Iterator[tuple[float, Law]]:
    """The accuracies with which the expected entropy falls by the same amount in each message, from the entropy of the
    concentration 0 to the entropy of `last`, and the law after each message.

    The secant method searches for ln α, from an extrapolation of the values before. A step of the search changes ln α
    by at most 1.
    """
    total = float(entropy_fall(torch.tensor(last, **WIDE)))
    tolerance = min(1e-10, 1e-6 * total / n_steps)  # if `last` is small, the fall in a step is below 1e-10
    law, slope = PRIOR, 1.0
    found: list[float] = []  # the logarithms
    for step in range(1, n_steps + 1):
        law, log_alpha = _essential(law), _extrapolated(found[-4:])
        change, before = 0.0, math.inf
        for _ in range(100):
            after = _coarsely(law, math.exp(log_alpha))
            excess = after.mean(entropy_fall(after.nodes)) - total * step / n_steps
            if abs(excess) < tolerance or excess == before:
                break
            slope = (excess - before) / change if change else slope
            change, before = -min(max(excess / slope, -1.0), 1.0), excess
            log_alpha += change
        found.append(log_alpha)
        law = _smooth(after, law, math.exp(log_alpha))
        yield math.exp(log_alpha), law


def _extrapolated(found: list[float]) -> float:
    """The next number of a sequence by a polynomial through these numbers, at most 1 from the last; 0 if there are
    none."""
    binomials = [(-1) ** j * math.comb(len(found), j + 1) for j in range(len(found))]
    guess = sum(factor * each for factor, each in zip(binomials, reversed(found), strict=True))
    return min(max(guess, found[-1] - 1), found[-1] + 1) if found else guess
