"""Losses of a row, from sums over its classes [derived]. A row is the logits z of one token, and x is its true class.

The sums have the terms e_k = exp(z_k − t) for the wrong classes k ≠ x, where t is the largest logit of these classes,
or LEAST if it is smaller. The class x is left out, so that nothing cancels as p_x goes to 1. One class with the logit t
is left out, too, since its term, 1, would be so large that small terms lose their digits. No term is negative, so sums
over two sets of classes can be joined without cancellation. All numbers are float64, or float32 on a device without
float64. Numbers in parentheses are equations of Graves et al. 2023, and [derived] marks formulas that are not in the
paper.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bfn_kernels.checks import widest

LEAST = torch.finfo(torch.float32).min  # t of a sum over no classes, and a lower bound of every t
SUMS = 4  # the number of fields of `Sums`


class Sums(NamedTuple):
    """The sums of each row over some classes. z_x: the logit of x, or 0 if x is not one of the classes. top: t. rest,
    square: the sums of e_k and of e_k², which leave out x and one class with the logit t. Operators store the four
    numbers in the last dimension of a tensor."""

    z_x: Tensor
    top: Tensor
    rest: Tensor
    square: Tensor

    @staticmethod
    def of_tile(z_x: Tensor, others: Tensor) -> "Sums":
        """The sums of a tile. In `others` the logit of x must be −∞."""
        top, index = others.max(-1)
        top = top.clamp(min=LEAST)
        e = (others - top.unsqueeze(-1)).exp_()
        e.scatter_(-1, index.unsqueeze(-1), (top - top).unsqueeze(-1))  # 0, or NaN where the logit is not finite
        wide = widest(others.device)
        return Sums(*(number.to(wide) for number in (z_x, top, e.sum(-1), e.square_().sum(-1))))

    @staticmethod
    def stored(stats: Tensor) -> "Sums":
        """The sums that a tensor `[..., 4]` stores."""
        return Sums(*stats.unbind(-1))

    @staticmethod
    def of_none(like: Tensor, *shape: int) -> Tensor:
        """The stored sums over no classes, on the device of a tensor."""
        stats = like.new_zeros(*shape, SUMS, dtype=widest(like.device))
        stats[..., 1] = LEAST
        return stats

    def add_to(self, stats: Tensor) -> None:
        """Adds these sums to the stored sums over other classes."""
        other = Sums.stored(stats)
        top = torch.maximum(self.top, other.top)
        by_self, by_other = (self.top - top).exp(), (other.top - top).exp()
        less = torch.minimum(by_self, by_other)  # the term of the left-out class that has the smaller t
        rest = by_self * self.rest + by_other * other.rest + less
        square = by_self.square() * self.square + by_other.square() * other.square + less.square()
        torch.stack([self.z_x + other.z_x, top, rest, square], -1, out=stats)

    def log(self) -> Tensor:
        """ln Σ exp(z_k) over the classes but x."""
        return self.top + self.rest.log1p()


class Row(NamedTuple):
    """The numbers of each row, with e_k = exp(z_k − max), where `max` is the largest logit of all classes.

    x: e_x. rest, square: the sums of e_k and of e_k² over the wrong classes. spread: the sum of e_k(1 − e_k) over the
    wrong classes; it is valid only if a wrong class has the largest logit.
    """

    z_x: Tensor
    max: Tensor
    x: Tensor
    rest: Tensor
    square: Tensor
    spread: Tensor

    @staticmethod
    def of(stats: Tensor) -> "Row":
        """The numbers of stored sums."""
        sums = Sums.stored(stats)
        top = torch.maximum(sums.z_x, sums.top)
        top = torch.where((top > LEAST) & top.isfinite(), top, torch.nan)  # otherwise p would be 0/0 or ∞/∞
        x, by_top = (sums.z_x - top).exp(), (sums.top - top).exp()
        rest, square = by_top * (1 + sums.rest), by_top.square() * (1 + sums.square)
        return Row(sums.z_x, top, x, rest, square, sums.rest - sums.square)

    def total(self) -> Tensor:
        return self.x + self.rest

    def q(self) -> Tensor:
        """1 − p_x."""
        return self.rest / self.total()

    def squared_distance(self) -> Tensor:
        """‖e_x − p‖² (205)."""
        return self.q().square() + self.square / self.total().square()

    def cross_entropy(self) -> Tensor:
        """−ln p_x."""
        likely = self.x > 0.5
        return torch.where(likely, (self.rest / self.x).log1p(), self.total().log() + self.max - self.z_x)

    def loss(self, rate: Tensor | None) -> Tensor:
        """L∞ or, without a rate, the reconstruction loss."""
        return self.cross_entropy() if rate is None else rate * self.squared_distance()

    def slopes(self, rate: Tensor | None, factor: Tensor) -> Tensor:
        """The derivatives of `loss`, times a factor, as five numbers for each row: by_x, max, slope, level, origin.

        by_x is the derivative by the logit of x. The derivative by the logit z of another class is
        e(slope·(e − origin) + level), where e = exp(z − max).

        The derivatives of L∞ are −2p_x(q² + s) by the logit of x and 2p_k(p_k − s + p_x·q) by another logit, where s =
        Σp_k² over the wrong classes. If a wrong class has a probability above ½, p_k − s would cancel for it. For such
        rows it is computed as (e_k − 1)/total + (e_x + Σe(1 − e))/total².
        """
        total, zero = self.total(), torch.zeros_like(self.max)
        if rate is None:
            return torch.stack([-self.q() * factor, self.max, zero, factor / total, zero], -1)
        wrong = (self.x < 1) & (total < 2)
        above = torch.where(wrong, self.x + self.spread, -self.square)
        slope = 2 * rate * factor / total.square()
        by_x = -slope / total * self.x * (self.rest.square() + self.square)
        level = slope / total * (self.x * self.rest + above)
        return torch.stack([by_x, self.max, slope, level, wrong], -1)
