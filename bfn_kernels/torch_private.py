"""Names that are private to torch. Each has a substitute for versions of torch that lack the name.

A test in `tests/kernels/test_calls.py` checks that results outside of torch.func's transforms are the same without
`below_autograd` and `transformed`. The times below were measured for a small call on a CPU.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.autograd import forward_ad

# Whether a transform of torch.func is active. torch has no public function for it. With the substitute, a gradient that
# only an outer transform needs is an error.
transformed: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
# A context in which operators skip torch's autograd. With the substitute, a small call takes a third longer.
below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)
# Whether saved tensors may be read again after the current backward pass. With the substitute, saved gradients are
# always copied.
keeps_saved: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
# Functions that inspect the tensors of torch.func. With the substitute, the reference fails under vmap.
_functorch: Any = getattr(torch._C, "_functorch", None)
# A context without torch's dispatch modes, in which tensors have values even under a fake mode. With the substitute,
# circular data need a table that was computed before the fake mode.
outside_modes: Any = getattr(torch._C, "_DisableTorchDispatch", contextlib.nullcontext)


def forward_mode() -> bool:
    """Whether tensors may have forward-mode tangents. With the substitute, this is always True outside of compiled
    code, so callers look at every tensor, which is slow."""
    return not torch.compiler.is_compiling() and getattr(forward_ad, "_current_level", 0) >= 0


def has_tangent(value: object) -> bool:
    """Whether the value is a tensor with a forward-mode tangent."""
    return isinstance(value, torch.Tensor) and forward_ad.unpack_dual(value).tangent is not None


def batched(x: torch.Tensor) -> bool:
    """Whether vmap maps over x. Then each element of x has a value for each lane, and none of them can be read."""
    while _functorch is not None and transformed() and _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False


def constant(function: Callable) -> Callable:
    """Marks a function as torch.compiler.assume_constant_result does: it is called once, while code is traced. torch's
    function would import the whole compiler, which takes ten times as long as importing the rest of this package."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


def below_python(overload: OpOverload) -> Callable:
    """The C++ operator that a Python object wraps. A call of the Python object takes 5 % longer."""
    return getattr(overload, "_op", overload)
