"""Gauss quadrature in plain Python numbers: no default device, mode or captured graph has a part in them."""

import functools
import math

import torch

Rule = tuple[tuple[float, ...], tuple[float, ...]]


def hermite(order: int) -> Rule:
    """Nodes, in ascending order, and weights for a standard normal."""
    return _rule(tuple([math.sqrt(k) for k in range(1, order)]))


def legendre(order: int) -> Rule:
    """Nodes, in ascending order, and weights for a uniform variable in [0, 1]."""
    nodes, weights = _rule(tuple([k / math.sqrt(4 * k * k - 1) for k in range(1, order)]))
    return tuple(node / 2 + 0.5 for node in nodes), weights


@torch.compiler.assume_constant_result
def _rule(recurrence: tuple[float, ...]) -> Rule:
    return _nodes_and_weights(recurrence)  # the cache lies within, since the compiler looks through one outside


@functools.cache
def _nodes_and_weights(recurrence: tuple[float, ...]) -> Rule:
    """For an even density whose orthonormal polynomials p_k have b_{k+1}p_{k+1} = xp_k − b_kp_{k−1}, by the numbers b:
    the nodes are the eigenvalues of the matrix with b beside its diagonal of zeros (Golub and Welsch), the weights
    1/Σp_k²."""
    order = len(recurrence) + 1
    upper = [_eigenvalue(recurrence, place) for place in range((order + 1) // 2, order)]
    nodes = [*(-x for x in reversed(upper)), *[0.0] * (order % 2), *upper]
    return tuple(nodes), tuple(_weight(recurrence, x) for x in nodes)


def _eigenvalue(recurrence: tuple[float, ...], place: int) -> float:
    """The one that `place` others lie below, positive: bisected down to neighbouring numbers."""
    low, high = 0.0, 2 * max(recurrence)
    while low < (middle := (low + high) / 2) < high:
        if _count_below(recurrence, middle) > place:
            high = middle
        else:
            low = middle
    return low


def _count_below(recurrence: tuple[float, ...], x: float) -> int:
    """How many eigenvalues are below x: as many as there are negative pivots once x is subtracted (Sylvester)."""
    count, pivot = 0, 1.0
    for b in (0.0, *recurrence):
        pivot = -x - b * b / (pivot or 1e-300)
        count += pivot < 0
    return count


def _weight(recurrence: tuple[float, ...], x: float) -> float:
    total, before, last, b_before = 1.0, 0.0, 1.0, 0.0
    for b in recurrence:
        before, last, b_before = last, (x * last - b_before * before) / b, b
        total += last * last
    return 1 / total
