"""torch.compile without graph breaks, the registration of every operator, and transforms that there are none of."""

import cuda_on_host
import pytest
import torch
from cases import CASES
from support import FIRST, NATIVE, evaluate, named, serves, weights_like
from torch.utils._python_dispatch import TorchDispatchMode
from vocabularies import LARGE, MODES, STEPS

from bfn_kernels import continuous, discrete, discretised


def kind(case) -> tuple:
    """Cases of one kind run the same code."""
    words = ("choose", "receiver", "quadrature", "parametrisation", "n_samples", "num_bins", "rule")
    options = tuple(
        (k, case.options[k] if k not in ("quadrature", "num_bins") else True) for k in words if k in case.options
    )
    return case.op, frozenset(case.fields), options, case.into


KINDS = list({kind(case): case for case in reversed(CASES + LARGE + STEPS + MODES)}.values())[::-1]
KINDS += [case for case in LARGE if "wide" in case.name and "loss" in case.name]  # whose gradients a CPU makes early
# whose loss keeps less than a gradient on the CPU, too
LONG_ROWS = [named(f"discrete.{op}[K=257]") for op in ("continuous_time_loss", "reconstruction_loss")]
ON_REFERENCE = ["continuous.flow_sample", "discretised.continuous_time_loss", "discrete.update_sample[K=3]"]
# Operators join the compiler alike on all backends, so that one case of each is enough on all but one of them.
TABLE = [
    pytest.param(c, b, id=f"{b}-{c.name}") for b in NATIVE for c in KINDS if serves(c, b) and (b == "cpu" or c in FIRST)
]
TABLE += [pytest.param(named(name), "reference", id=f"reference-{name}") for name in ON_REFERENCE]


def agree(got, want) -> None:
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6, equal_nan=True)


def compiled(case, compiler: str):
    def run(inputs, backend):
        return case(inputs, backend)

    torch._dynamo.reset()
    return torch.compile(run, fullgraph=True, backend=compiler)


@pytest.mark.parametrize(("case", "backend"), TABLE)
def test_compiled_equals_eager(case, backend):
    inputs = case.inputs((3, 4), torch.float32)
    want, function = evaluate(case, inputs, backend), compiled(case, "aot_eager")
    inputs = {k: v.clone().requires_grad_() if k in case.diff else v for k, v in inputs.items()}
    result = function(inputs, backend)
    got = {"result": result.detach()}
    if case.diff:
        leaves = [inputs[k] for k in case.diff]
        grads = torch.autograd.grad(result, leaves, weights_like(result).to(result.dtype))
        got |= dict(zip(case.diff, grads, strict=True))
    agree(got, want)


@pytest.mark.parametrize("name", ["discretised.continuous_time_loss", "discrete.update_sample[K=3]"])
@pytest.mark.parametrize("backend", NATIVE)
def test_inductor(name, backend):
    inputs = named(name).inputs((3, 4), torch.float32)
    torch.testing.assert_close(
        compiled(named(name), "inductor")(inputs, backend), named(name)(inputs, backend), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("backend", NATIVE)
def test_seeds_in_compiled_code(backend):
    """The same seed as in eager code, and torch's generator where there is none."""
    function = torch.compile(
        lambda x, seed: continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=seed, backend=backend),
        fullgraph=True,
        backend="aot_eager",
    )
    x = torch.rand(3, 5)
    eager = continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=4, backend=backend)
    torch.testing.assert_close(function(x, torch.tensor(4)), eager)
    torch.manual_seed(1)
    first, second = function(x, None), function(x, None)
    torch.manual_seed(1)
    assert torch.equal(function(x, None), first) and not torch.equal(first, second)


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


def recorded() -> dict:
    if "cuda_on_host" in NATIVE:
        cuda_on_host.load()  # these calls are made while tests are collected
    with Recorder() as recorder:
        for backend in NATIVE:
            for case in (*KINDS, *LONG_ROWS):
                if not serves(case, backend):
                    continue
                inputs = case.inputs((3, 4), torch.float32)
                evaluate(case, inputs, backend)
                if case.op.endswith(("update_sample", "solver_step")):
                    state = inputs["state" if "state" in inputs else "mean"]
                    case(inputs, backend, out=torch.empty_like(state))
                if "noise" in inputs:
                    case({k: v for k, v in inputs.items() if k not in ("noise", "draw_noise")}, backend, seed=1)
        if "cpu" in NATIVE:
            kernels_of_tiles()
    return recorder.calls


def kernels_of_tiles() -> None:
    """Calls those that other operators call, of which a recorder does not hear."""
    x, rows, seed, tile = torch.arange(3), torch.arange(3), torch.tensor(1), torch.rand(3, 70)
    each = [torch.rand(3) for _ in range(5)]
    torch.ops.bfn_kernels.discrete_flow_tile(x, rows, *each[:2], seed, 0, 70, False, *each[2:], tile)
    torch.ops.bfn_kernels.discrete_sums_tile(tile, x, 0, torch.zeros(3, 4, dtype=torch.float64))
    torch.ops.bfn_kernels.discrete_slopes_tile(x, torch.rand(3, 5), 0, tile)
    state, nothing = torch.rand(3, 70), (None, None)
    step, of = (x, rows, each[0], each[1], None, seed, None), (0, 70, False)
    torch.ops.bfn_kernels.discrete_step_tile(*step, *of, state, tile, torch.empty(3, 70), *each[2:])
    torch.ops.bfn_kernels.discrete_step_tile(
        x, rows, each[0], *nothing, *nothing, *of, state, tile, state, None, *nothing
    )


CALLS = recorded() if NATIVE else {}


@pytest.mark.parametrize("key", list(CALLS), ids=lambda key: f"{key[0]}-{''.join('01'[a] for a in key[1])}")
def test_opcheck(key):
    op, args, kwargs = CALLS[key]
    # how an operator joins autograd and the compiler is the same in every namespace
    few = {} if op.namespace == "bfn_kernels" else {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(op, args, kwargs, **few)


@pytest.mark.skipif(not NATIVE, reason="no native operators")
def test_every_operator_was_recorded():
    names = {n for n in torch._C._dispatch_get_all_op_names() if n.startswith("bfn_kernels::")}
    seen = {f"{op.namespace}::{op._schema.name.split('::')[1]}" for op, _, _ in CALLS.values()}
    assert {n.split(".")[0] for n in names} - {"bfn_kernels::draw_seed", "bfn_kernels::join_seed"} <= seen


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize(
    "function",
    [
        lambda x, b: continuous.flow_sample(x, 0.5, sigma_1=0.1, seed=1, backend=b),
        lambda x, b: continuous.sender_sample(x, 0.5, seed=1, backend=b),
        lambda x, b: discretised.sample(x, x.exp(), num_bins=4, seed=1, backend=b),
        lambda x, b: discrete.update_sample(x, x, 0.5, seed=1, backend=b),
    ],
)
def test_vmap_is_an_error(function, backend):
    """One seed and positions from 0 in every lane would repeat the same noise."""
    with pytest.raises(RuntimeError):
        torch.vmap(lambda x: function(x, backend))(torch.zeros(3, 4, 5))
