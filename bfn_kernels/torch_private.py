"""Names that are private to torch, and what takes their place in a torch that lacks them.

A test in `tests/kernels/test_calls.py` checks that results outside of torch.func's transforms are the same without
`below_autograd` and `transformed`. The times below were measured for a small call on a CPU.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

# Whether a transform of torch.func is active, which nothing public says. Without it, a gradient that only an outer
# transform asks for is an error.
transformed: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
# Calls an operator below autograd. Without it a small call takes a third longer.
below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", contextlib.nullcontext)
# Whether saved tensors may be read again after the backward pass that runs. Without it, saved gradients are always
# copied.
keeps_saved: Callable[[], bool] = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def constant(function: Callable) -> Callable:
    """Marks a function as torch.compiler.assume_constant_result does: it is called once, while code is traced. That
    function of torch imports the whole compiler. The import takes ten times as long as the rest of this package."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


def below_python(overload: OpOverload) -> Callable:
    """The operator as C++ has it, below the object that Python calls. With that object a call takes 5 % longer."""
    return getattr(overload, "_op", overload)
