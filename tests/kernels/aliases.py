"""The tensors that a step writes into, and memory that they share with the arguments of the step."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bfn_kernels.solvers import Coefficients

OUTPUTS = ("out", "theta_out", "predicted_out", "concentration_out", "log_out")


def input_of(output: str, state: str) -> str | None:
    """The name of the input that may be passed as this output too, in a call whose state has the name `state`."""
    return {"out": state, "predicted_out": "previous", "concentration_out": "concentration"}.get(output)


def tensors_of(inputs: dict) -> Iterator[tuple[str, Tensor, Callable[[Tensor], dict]]]:
    """Each tensor, by its argument's name, and a function that puts another in its place."""
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            yield name, value, lambda new, name=name: inputs | {name: new}
        elif isinstance(value, Coefficients):
            for part, each in value._asdict().items():
                if isinstance(each, Tensor):
                    put = lambda new, n=name, v=value, p=part: inputs | {n: v._replace(**{p: new})}  # noqa: E731
                    yield f"{name}.{part}", each, put


def over(value: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The value, and memory for a result like another tensor, which share their first bytes."""
    memory = torch.zeros(max(value.nbytes, like.nbytes), dtype=torch.uint8)
    copy, out = (memory[: t.nbytes].view(t.dtype).view(t.shape) for t in (value, like))
    return copy.copy_(value), out
