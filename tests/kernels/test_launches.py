"""How many kernels and copies a call launches on a GPU: our kernels, and one for each of torch's ops that makes
numbers. Tensors of the CPU stand for a GPU's. `cuda_on_host` runs CUDA's kernels; Triton's are recorded, and do not
run."""

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bfn_kernels import backends, checks, declarations, libraries, nn, samplers, triton_ops
from tests.cuda_on_host import cuda_on_host
from tests.kernels.case import Case
from tests.kernels.declared import NOISES
from tests.kernels.op_cases import CASES
from tests.kernels.support import INTERPRETED, NATIVE, PTX

if INTERPRETED or PTX:
    pytest.skip("it counts what other processes run", allow_module_level=True)

NAMESPACE = "bfn_kernels_launches"
BACKENDS = [name for name in NATIVE if name == "cuda_on_host"]
BACKENDS += [name for name in ("triton",) if backends.BACKENDS[name].missing is None]
# For each call, the most launches with CUDA's kernels and with Triton's. docs/gpu.md has the same numbers.
LAUNCHES = {
    "continuous": {
        "flow_sample": (2, 2),
        "continuous_time_loss": (5, 4),
        "update_sample[prediction]": (4, 4),
        "solver_step": (35, 35),
    },
    "discretised": {"continuous_time_loss[stacked]": (5, 4), "update_sample": (4, 4), "solver_step": (35, 35)},
    "discrete": {
        "flow_sample[K=27]": (2, 2),
        "continuous_time_loss[K=27]": (5, 4),
        "update_sample[K=27]": (2, 2),
        "solver_step[K=27]": (23, 23),
    },
    "binary": {
        "flow_sample[logits]": (2, 2),
        "continuous_time_loss[int64]": (5, 4),
        "update_sample": (2, 2),
        "solver_step": (23, 23),
    },
    "circular": {"flow_sample": (3, 3), "discrete_time_loss": (6, 5), "update_sample": (2, 2)},
}
# For each kind of data, the most launches of a step of a sampling run, without its network: with the sampler
# "ancestral", and with a solver.
STEPS = {"Continuous": (7, 4), "Discretised": (7, 4), "Discrete": (4, 3), "Binary": (4, 3)}


class Launches(TorchDispatchMode):
    """Notes torch's ops, also those that our operators call, but for views and allocations."""

    def __init__(self):
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if op.namespace.startswith("bfn_kernels"):
            with self:
                return op.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **kwargs)
        if op._can_decompose():
            with self:
                return op.decompose(*args, **kwargs)
        result = op(*args, **kwargs)
        nothing = op.is_view or "empty" in op.name() or op.name() == "aten::_unsafe_view"
        if not nothing and any(not isinstance(t, Tensor) or t.numel() for t in tree_leaves(result)):
            self.ops.append(op.name())
        return result


@functools.cache
def add_triton() -> None:
    backends.add_library(libraries.Library(NAMESPACE, triton_ops.implement, ("CPU",)))


@pytest.fixture
def as_on_a_gpu(monkeypatch, backend):
    """Nobody reads the values of tensors, and Triton takes tensors of the CPU."""
    for module in (checks, declarations):
        monkeypatch.setattr(module, "shows", lambda x: False)
    if backend == "triton":
        add_triton()
        monkeypatch.setitem(backends.BACKENDS, "triton", backends.Backend("triton", "cpu", NAMESPACE))


def kernels_of(call, backend) -> int:
    """How many of our kernels the call launches."""
    if backend == "triton":
        from gpu_build.compiled_triton import launches

        return len(launches(call))
    before = cuda_on_host.launches()
    call()
    return cuda_on_host.launches() - before


def call_of(case: Case, backend: str):
    """The call with a seed on the device in the place of explicit noise, and the backward pass to all inputs but x and
    the mean, which do not depend on a network."""
    inputs = {k: v for k, v in case.inputs((4, 6), torch.float32).items() if k not in NOISES}
    seed = {"seed": torch.tensor(1)} if {*NOISES} & {*case.fields} or "seed" in case.options else {}
    case = dataclasses.replace(case, options={**case.options, **seed})
    of_network = [name for name in case.diff if case.loss and name not in ("x", "mean")]
    inputs |= {name: inputs[name].requires_grad_() for name in of_network}
    grad = torch.ones(())

    def call():
        result = case(inputs, backend)
        if of_network:
            torch.autograd.grad(result, [inputs[name] for name in of_network], grad)

    return call


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("family", "op"), [(family, op) for family, ops in LAUNCHES.items() for op in ops])
def test_launches(family, op, backend, as_on_a_gpu):
    (case,) = [case for case in CASES if case.name == f"{family}.{op}"]
    call = call_of(case, backend)
    kernels_of(call, backend)  # the first call makes tables that stay
    with Launches() as launches:
        ours = kernels_of(call, backend)
    assert ours + len(launches.ops) <= LAUNCHES[family][op][backend == "triton"], f"{ours}, {launches.ops}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sampler", ["ancestral", "ode1", "ode2", "sde2", "renoise"])
@pytest.mark.parametrize("kind", STEPS)
def test_launches_of_a_step(kind, sampler, backend, as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(samplers, "can_capture", lambda device: True)
    monkeypatch.setattr(backends, "choose", lambda *_: backends.BACKENDS[backend])
    output = torch.rand(4, 6, *{"Discretised": [2], "Discrete": [5]}.get(kind, []))
    more = {"Discretised": {"num_bins": 16}, "Discrete": {"num_classes": 5}}.get(kind, {})
    model, runs = getattr(nn, kind)(lambda theta, t: output, 0.5, **more), []
    make = samplers.SAMPLERS[sampler]
    kernels_of(lambda: runs.append(make(model, (4, 6), 5, 1, torch.device("cpu"))), backend)
    step = torch.no_grad()(runs[0].step)
    kernels_of(step, backend)  # the first step makes tables that stay
    with Launches() as launches:
        ours = kernels_of(step, backend)
    assert ours + len(launches.ops) <= STEPS[kind][sampler != "ancestral"], f"{ours}, {launches.ops}"


def test_the_page_has_these_numbers():
    page = Path(__file__).parents[2].joinpath("docs", "gpu.md").read_text()
    for family, calls in LAUNCHES.items():
        cells = dict.fromkeys(("flow", "loss", "update", "solver"), "–")
        for op, (cuda, triton) in calls.items():
            (kind,) = [kind for kind in cells if kind in op]
            cells[kind] = f"{cuda}" if cuda == triton else f"{cuda}, Triton {triton}"
        assert f"\n| {family} | {' | '.join(cells.values())} |\n" in page
    for kind, launches in STEPS.items():
        assert f"\n| {kind.lower()} | {' | '.join(map(str, launches))} |\n" in page
