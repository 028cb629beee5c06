"""Losses of a row of classes by sums that are made a part of the classes at a time [derived].

The class x is left out of the sums, so that nothing cancels as p_x goes to 1. So is the class with the largest of the
other logits, t, by which the exponentials are taken: e_k = exp(z_k − t). Its own 1 would hide what is small beside it,
and all terms being positive, sums of two parts are joined without loss. All numbers are float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LEAST = torch.finfo(torch.float32).min  # the least t; that of no class is too small for it to count


class Sums(NamedTuple):
    """Of each row: t, and the sums of e_k and of e_k² over the classes but x and that of t."""

    top: Tensor
    rest: Tensor
    square: Tensor

    @staticmethod
    def of_others(others: Tensor) -> "Sums":
        """The sums of a tile, where the logit of x is −∞."""
        top, place = others.max(-1)
        top = top.clamp(min=LEAST)
        e = (others - top.unsqueeze(-1)).exp_()
        e.scatter_(-1, place.unsqueeze(-1), (top - top).unsqueeze(-1))  # 0, or NaN where the logit is no finite number
        return Sums(*(number.double() for number in (top, e.sum(-1), e.square_().sum(-1))))

    def joined(self, other: "Sums") -> "Sums":
        top = torch.maximum(self.top, other.top)
        one, two = (self.top - top).exp(), (other.top - top).exp()
        less = torch.minimum(one, two)  # what the smaller t adds
        return Sums(
            top,
            one * self.rest + two * other.rest + less,
            one.square() * self.square + two.square() * other.square + less.square(),
        )

    def log(self) -> Tensor:
        """The logarithm of the sum of exp(z_k) over the classes but x."""
        return self.top + self.rest.log1p()


class Row(NamedTuple):
    """Of each row, with e_k = exp(z_k − max) and `max` the largest logit of all: e_x, and sums of the other e_k, of
    their squares, and of e_k(1 − e_k) where a wrong class is likelier than not."""

    z_x: Tensor
    max: Tensor
    x: Tensor
    rest: Tensor
    square: Tensor
    spread: Tensor

    @staticmethod
    def of(z_x: Tensor, sums: Sums) -> "Row":
        most = torch.maximum(z_x, sums.top)
        most = torch.where((most > LEAST) & most.isfinite(), most, torch.nan)  # else p is 0/0 or ∞/∞
        x, by = (z_x - most).exp(), (sums.top - most).exp()
        rest, square = by * (1 + sums.rest), by.square() * (1 + sums.square)
        return Row(z_x, most, x, rest, square, sums.rest - sums.square)

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


class Slopes(NamedTuple):
    """The derivatives of a loss of each row: that by the logit of x, and that by another class's, which is
    e(slope·(e − origin) + level) with e = exp(z − max)."""

    by_x: Tensor
    max: Tensor
    slope: Tensor
    level: Tensor
    origin: Tensor

    @staticmethod
    def of_squared_distance(row: Row) -> "Slopes":
        """−2p_x(q² + s) by the logit of x and 2p_k(p_k − s + p_x·q) by another's, s = Σp_k² over these. Where e_k may
        be 1 and p_k − s would cancel, it is (e_k − 1)/total + (e_x + Σe(1 − e))/total²."""
        total, wrong = row.total(), (row.x < 1) & (row.total() < 2)
        above = torch.where(wrong, row.x + row.spread, -row.square)
        slope = 2 / total.square()
        return Slopes(
            -slope / total * row.x * (row.rest.square() + row.square), row.max, slope,
            slope / total * (row.x * row.rest + above), wrong.double(),
        )  # fmt: skip

    @staticmethod
    def of_cross_entropy(row: Row) -> "Slopes":
        nothing = torch.zeros_like(row.max)
        return Slopes(-row.q(), row.max, nothing, 1 / row.total(), nothing)

    def times(self, factor: Tensor) -> "Slopes":
        by_x, most, slope, level, origin = self
        return Slopes(by_x * factor, most, slope * factor, level * factor, origin)
