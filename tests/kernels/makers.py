"""Makers of inputs: `(shape, dtype, generator) -> value`. Numbers are drawn in float64 and rounded once."""

import torch
from torch import Tensor


def uniform(low, high):
    return lambda shape, dtype, g: (torch.rand(shape, generator=g, dtype=torch.float64) * (high - low) + low).to(dtype)


def log_uniform(low, high):
    exponent = uniform(torch.tensor(low).double().log(), torch.tensor(high).double().log())
    return lambda shape, dtype, g: exponent(shape, torch.float64, g).exp().to(dtype)


def normal(scale=1.0):
    return lambda shape, dtype, g: (torch.randn(shape, generator=g, dtype=torch.float64) * scale).to(dtype)


def among(*values):
    def make(shape, dtype, g):
        return torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), shape, generator=g)].to(dtype)

    return make


def per_class(make, num_classes):
    return lambda shape, dtype, g: make((*shape, num_classes), dtype, g)


def mixture(fields, *shared):
    """The fields of a mixture of three components: each field but the `shared` ones has a number per component."""
    each = {name: make if name in shared else per_class(make, 3) for name, make in fields.items()}
    return {**each, "mixture_logits": per_class(normal(), 3)}


def draws(make, count):
    return lambda shape, dtype, g: make((count, *shape), dtype, g)


def proposals(count):
    """The uniforms that draw angles by so many proposals."""
    return lambda shape, dtype, g: torch.stack(
        [uniform(*ends)((count, *shape), dtype, g) for ends in ((-1, 1), (0, 1))], 1
    )


def rows(make, dims=1):
    """Numbers of the leading dimensions of the shape, in float32 at least, as t and alpha are."""
    return lambda shape, dtype, g: make(shape[:dims], torch.promote_types(dtype, torch.float32), g)


def classes(num_classes, kind=torch.int64):
    return lambda shape, dtype, g: torch.randint(num_classes, shape, generator=g).to(kind)


def valid(num_classes, per_variable=False):
    """A mask of about two classes of three, among them the first, for the whole call or for each variable."""

    def make(shape, dtype, g) -> Tensor:
        mask = torch.rand((*shape, num_classes) if per_variable else (num_classes,), generator=g) < 0.7
        mask[..., 0] = True
        return mask

    return make


def soft(num_classes, hidden=None):
    """Distributions over classes, some of them of one class alone. hidden: the value where `some` is False."""

    def make(shape, dtype, g) -> Tensor:
        z = torch.randn((*shape, num_classes), generator=g, dtype=torch.float64) * 3
        sharp = torch.rand((*shape, 1), generator=g) < 0.3
        p = torch.where(sharp, (z == z.amax(-1, keepdim=True)).double(), z.softmax(-1))
        return p.to(dtype)

    return make if hidden is None else poisoned(make, hidden)


def steps(first, last, dims=1):
    """Numbers of steps of the leading dimensions of the shape."""
    return lambda shape, dtype, g: torch.randint(first, last + 1, shape[:dims], generator=g)


def some(shape, dtype, g) -> Tensor:
    """A mask that keeps two of three variables."""
    return (torch.arange(torch.Size(shape).numel()) % 3 != 0).reshape(shape)


def poisoned(make, value):
    """Inputs with `value` where the mask `some` is False, which no op may read. They may have a number per class."""

    def hidden(shape, dtype, g) -> Tensor:
        made = make(shape, dtype, g)
        return torch.where(some(shape, dtype, g).view(*shape, *[1] * (made.dim() - len(shape))), made, value)

    return hidden


def ends_of(n_steps):
    """The times of the first two steps, of one in the middle and of the last one."""
    return rows(among(0.0, 1 / n_steps, 0.5, 1 - 1 / n_steps))


def pair(first, second):
    """Two fields in one, stacked in a last dimension."""
    return lambda shape, dtype, g: torch.stack([first(shape, dtype, g), second(shape, dtype, g)], -1)


def itself(shape, dtype, g) -> torch.dtype:
    return dtype
