"""The calls of operators that the table of cases makes, which are recorded when a test asks for them."""

from collections.abc import Callable
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.op_cases import CASES
from tests.kernels.support import NATIVE, evaluate, named, serves
from tests.kernels.vocabulary_cases import LARGE, MODES, STEPS, WIDE


def kind(case) -> tuple:
    """Cases of one kind run the same code."""
    words = ("choose", "receiver", "quadrature", "parametrisation", "n_samples", "num_bins", "rule")
    words += ("output", "return_argmax")
    options = tuple(
        (k, case.options[k] if k not in ("quadrature", "num_bins") else True) for k in words if k in case.options
    )
    return case.op, frozenset(case.fields), options, case.into


KINDS = list({kind(case): case for case in reversed(CASES + LARGE + STEPS + MODES)}.values())[::-1]
KINDS += [case for case in WIDE if case.loss]  # whose gradients a CPU makes early
# whose loss keeps less than a gradient on the CPU, too
LONG_ROWS = [named(f"discrete.{op}[K=4096]") for op in ("continuous_time_loss", "reconstruction_loss")]


class Recorder(TorchDispatchMode):
    """Keeps the arguments of the first call of each of our operators with each pattern of absent arguments."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace.startswith("bfn_kernels"):
            key = str(op), tuple(a is None for a in args)
            copies = tuple(a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args)
            self.calls.setdefault(key, (op, copies, dict(kwargs or {})))
        return op(*args, **(kwargs or {}))


def calls_of(case, backend) -> dict:
    """The calls of operators by a case, by the same case with a seed, and by a step that writes into tensors."""
    inputs = case.inputs((3, 4), torch.float32)
    with Recorder() as recorder:
        evaluate(case, inputs, backend)
        if case.op.endswith(("update_sample", "solver_step")):
            state = inputs["state" if "state" in inputs else "mean"]
            case(inputs, backend, out=torch.empty_like(state))
        if "noise" in inputs:
            case({k: v for k, v in inputs.items() if k not in ("noise", "draw_noise")}, backend, seed=1)
    return recorder.calls


def calls_of_tiles() -> dict:
    """The calls of kernels that other operators call, of which a recorder does not hear."""
    x, rows, seed, tile = torch.arange(3), torch.arange(3), torch.tensor(1), torch.rand(3, 70)
    each = [torch.rand(3) for _ in range(5)]
    state, nothing, plain = torch.rand(3, 70), (None, None, None), (None, None, False, False)
    sent, flow = (x, rows, *each[:2], seed, 0, 70), (None, None, tile)
    with Recorder() as recorder:
        torch.ops.bfn_kernels.vocabulary_step_tile(*sent, *plain, *flow, *each[2:])
        torch.ops.bfn_kernels.vocabulary_step_tile(*sent, *plain, *flow, *nothing)
        torch.ops.bfn_kernels.vocabulary_step_tile(*sent, None, None, False, True, *flow, *each[2:4], None)
        torch.ops.bfn_kernels.vocabulary_sums_tile(tile, x, 0, torch.zeros(3, 4, dtype=torch.float64))
        torch.ops.bfn_kernels.vocabulary_slopes_tile(x, torch.rand(3, 5), 0, tile)
        torch.ops.bfn_kernels.vocabulary_step_tile(*sent, *plain, state, torch.empty(3, 70), tile, *each[2:])
        without_noise = x, rows, each[0], None, None, 0, 70
        torch.ops.bfn_kernels.vocabulary_step_tile(*without_noise, *plain, state, state, tile, *nothing)
    return recorder.calls


RECORDINGS: dict[str, Callable[[], dict]] = {
    f"{backend}-{case.name}": partial(calls_of, case, backend)
    for backend in NATIVE
    for case in (*KINDS, *LONG_ROWS)
    if serves(case, backend)
}
if "cpu" in NATIVE:
    RECORDINGS["cpu-tiles"] = calls_of_tiles
