"""The lattices of the states S_1 … S_n, and the normals of the steps on them.

Rounding S_i to multiples of δ_i adds the variance δ_i²/12. The bridge then has this effect on the variances V_i of S_i,
given x: V_n = A_n + δ_n²/12, V_{i−1} = (A_{i−1}/A_i)²V_i + A_{i−1}α_i/A_i + δ_{i−1}²/12, with A_i = α_1 + … + α_i. The
receiver's components are the normals of S_i given S_{i−1} and x with these variances, N(g·S_{i−1} + w·x, v). As the
spacing falls, they tend to the receiver distribution N(S_{i−1} + α_i·x, α_i) of the paper.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Step:
    """Numbers of step i.

    spacing: δ_i. bridge: the std of S_{i−1} given S_i. back: A_{i−1}/A_i. g, w, std: of the receiver. seen:
    A_i²/V_i, the accuracy with which the network sees S_i. shrink: A_i/V_i.
    """

    spacing: float
    bridge: float
    back: float
    g: float
    w: float
    std: float
    seen: float
    shrink: float


def steps_of(alpha: NDArray, spacing: float) -> list[Step]:
    """The steps 0 … n; step 0 has no message. alpha: the accuracies of the n messages. spacing: of a lattice, as a
    multiple of the smallest standard deviation that uses it."""
    n, total = len(alpha), [0.0, *np.cumsum(alpha).tolist()]
    back = [0.0, *(total[i - 1] / total[i] for i in range(1, n + 1))]
    bridge = [0.0, *(math.sqrt(back[i] * alpha[i - 1]) for i in range(1, n + 1))]
    least = [0.0, *(min(math.sqrt(alpha[i - 1]), bridge[i + 1] if i < n else math.inf) for i in range(1, n + 1))]
    delta = [spacing * each for each in least]
    variance = [0.0] * (n + 1)
    variance[n] = total[n] + delta[n] ** 2 / 12
    for i in range(n, 1, -1):
        variance[i - 1] = back[i] ** 2 * variance[i] + bridge[i] ** 2 + delta[i - 1] ** 2 / 12
    steps = [Step(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)]
    for i in range(1, n + 1):
        together = back[i] * variance[i]  # the covariance of S_{i-1} and S_i
        g = together / variance[i - 1] if i > 1 else 0.0
        v = variance[i] - g * together - delta[i] ** 2 / 12
        shrink = total[i] / variance[i]
        steps.append(
            Step(delta[i], bridge[i], back[i], g, total[i] - g * total[i - 1], math.sqrt(v), total[i] * shrink, shrink)
        )
    return steps
