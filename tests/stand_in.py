"""A device that this machine lacks: a stand-in, whose memory is the CPU's, and which has no float64. It has the name of
torch's device without memory, since autograd refuses the names of devices that torch was built without."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bfn_kernels import checks

DEVICE = torch.device("meta")


class Elsewhere(torch.Tensor):
    """A tensor on the stand-in."""

    @staticmethod
    def __new__(cls, here):
        if here.dtype == torch.float64:
            raise TypeError("the device has no float64")
        options = {"dtype": here.dtype, "device": DEVICE, "storage_offset": here.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, here.shape, strides=here.stride(), **options)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} outside of the mode")


def here(value):
    return value.here if isinstance(value, Elsewhere) else value


class Device(TorchDispatchMode):
    """Runs the ops of the stand-in on the CPU. Refuses float64, and tensors of both devices in one op."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        there = any(isinstance(each, Elsewhere) for each in tensors)
        name = function.name()
        if name == "aten::_to_copy" and there and kwargs.get("dtype") == torch.float64:
            raise TypeError("the device has no float64")
        if there and name not in ("aten::copy_", "aten::_to_copy"):
            mixed = [each.shape for each in tensors if not isinstance(each, Elsewhere) and each.dim() > 0]
            assert not mixed, f"{name} has tensors {mixed} of the CPU too"
        if kwargs.get("device") is not None:
            there = torch.device(kwargs["device"]) == DEVICE
            if there and kwargs.get("dtype") == torch.float64:
                raise TypeError("the device has no float64")
            kwargs["device"] = torch.device("cpu")
        result = function(*tree_map(here, args), **tree_map(here, kwargs))
        if function._schema.is_mutable:
            return kwargs.get("out", args[0])
        wrap = lambda value: Elsewhere(value) if isinstance(value, torch.Tensor) else value  # noqa: E731
        return tree_map(wrap, result) if there else result


def moved(value: Any) -> Any:
    """A copy of a tensor on the stand-in; any other value as it is."""
    return Elsewhere(value.detach().clone()) if isinstance(value, torch.Tensor) else value


@contextmanager
def tried() -> Iterator[None]:
    """Nothing is known of the stand-in before it is tried."""
    with patch.object(checks, "WIDE", ("cpu",)):
        checks.has_float64.cache_clear()
        try:
            yield
        finally:
            checks.has_float64.cache_clear()
