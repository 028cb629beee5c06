"""Gauss quadrature in plain Python numbers, which does not depend on torch's default device, on torch's modes or on the
capture of a CUDA graph."""

import functools
import math

from bfn_kernels.torch_private import constant

Rule = tuple[tuple[float, ...], tuple[float, ...]]


def hermite(order: int) -> Rule:
    """The nodes, in ascending order, and weights of the rule for a standard normal."""
    return _rule(tuple([math.sqrt(k) for k in range(1, order)]))


def legendre(order: int) -> Rule:
    """The nodes, in ascending order, and weights of the rule for a uniform variable in [0, 1]."""
    nodes, weights = _rule(tuple([k / math.sqrt(4 * k * k - 1) for k in range(1, order)]))
    return tuple(node / 2 + 0.5 for node in nodes), weights


@constant
def _rule(recurrence: tuple[float, ...]) -> Rule:
    return _nodes_and_weights(recurrence)  # has the cache, since torch.compile would ignore a cache of this function


@functools.cache
def _nodes_and_weights(recurrence: tuple[float, ...]) -> Rule:
    """The rule for an even density. `recurrence` has the numbers b_1, b_2, … of b_{k+1}p_{k+1} = x·p_k − b_k·p_{k−1},
    which the density's orthonormal polynomials satisfy. The nodes are the eigenvalues of the symmetric tridiagonal
    matrix with zeros on the diagonal and b next to it (Golub and Welsch 1969). The weights are 1/Σp_k²."""
    order = len(recurrence) + 1
    upper = [_eigenvalue(recurrence, rank) for rank in range((order + 1) // 2, order)]
    nodes = [*(-x for x in reversed(upper)), *[0.0] * (order % 2), *upper]
    return tuple(nodes), tuple(_weight(recurrence, x) for x in nodes)


def _eigenvalue(recurrence: tuple[float, ...], rank: int) -> float:
    """The eigenvalue with `rank` eigenvalues below it, which must be positive. It is found by bisection down to
    neighbouring floats."""
    low, high = 0.0, 2 * max(recurrence)
    while low < (middle := (low + high) / 2) < high:
        if _count_below(recurrence, middle) > rank:
            high = middle
        else:
            low = middle
    return low


def _count_below(recurrence: tuple[float, ...], x: float) -> int:
    """The number of eigenvalues below x. By Sylvester's law, it is the number of negative pivots of the matrix minus
    x·I."""
    count, pivot = 0, 1.0
    for b in (0.0, *recurrence):
        pivot = -x - b * b / (pivot or 1e-300)
        count += pivot < 0
    return count


def _weight(recurrence: tuple[float, ...], x: float) -> float:
    """1/Σp_k(x)², the weight of the node x."""
    total, before, last, b_before = 1.0, 0.0, 1.0, 0.0
    for b in recurrence:
        before, last, b_before = last, (x * last - b_before * before) / b, b
        total += last * last
    return 1 / total
