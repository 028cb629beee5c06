"""Tests of the CUDA kernels alone: the ways in which they read data, and operators that are traced for a GPU on a
machine without one."""

import dataclasses
import subprocess
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bfn_kernels import backends, discrete, discretised
from tests.cuda_on_host import cuda_on_host
from tests.kernels.op_cases import CASES
from tests.kernels.recorded import RECORDINGS
from tests.kernels.support import NATIVE, error, evaluate, pairs, scale, serves, widened
from tests.kernels.yardstick import check_close

CUDA = [name for name in NATIVE if name.startswith("cuda_")]  # on the CPU, as built for the host or as PTX
on_cpu = pytest.mark.parametrize("backend", CUDA)
# Vectors and what is left over, rows shorter and longer than vectors, several blocks, several chunks of a sum.
NOISE = ("noise", "draw_noise", "component_noise")
SHAPES = [(3, 40), (2, 8, 3), (5, 9000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pairs(
    CUDA,
    lambda case: (
        case.family == "binary" or (case.family != "discrete" and "n_steps" not in case.options and not case.hard)
    ),
)
def test_vectors(case, dtype, backend):
    """Dense data in rows of whole vectors, which other tests are too small for. Noise comes from a seed: explicit
    noise is read one by one."""
    # many values would show the tails of the discretised sums' own errors, which test_bins.py is for
    for shape in SHAPES[:2] if case.family == "discretised" else SHAPES:
        check_seeded(case, case.inputs(shape, dtype), backend)


def check_seeded(case, inputs, backend):
    """The noise among the inputs is left out, and comes from a seed."""
    inputs = {k: v for k, v in inputs.items() if k not in NOISE}
    random = {"seed": 3} if {*NOISE} & set(case.fields) else {}
    seeded = dataclasses.replace(case, options={**case.options, **random})
    got, want = evaluate(seeded, inputs, backend), evaluate(seeded, widened(inputs), "reference")
    check_close(got, want, partial(evaluate, seeded, inputs, "reference"), 2e-6 if random else 0.0)


@on_cpu
@pytest.mark.parametrize("num_classes", [2, 4, 16, 17, 129, 512, 513, 4096, 4100])
def test_teams(num_classes, backend):
    """Few classes belong to lanes, more to a block that holds them, most to one that reads them again."""
    generator = torch.Generator().manual_seed(num_classes)
    x = torch.randint(num_classes, (2, 3), generator=generator)
    z = 3 * torch.randn(2, 3, num_classes, generator=generator)
    beta = {"beta_1": 8 / num_classes}
    calls = [
        lambda z, b: discrete.continuous_time_loss(x, z, 0.4, **beta, backend=b),
        lambda z, b: discrete.reconstruction_loss(x, z, backend=b),
        lambda z, b: discrete.discrete_time_loss(x, z, step=5, n_steps=9, n_samples=2, seed=1, **beta, backend=b),
        lambda z, b: discrete.flow_sample(x, 0.5, num_classes=num_classes, seed=1, dtype=z.dtype, **beta, backend=b),
        lambda z, b: discrete.update_sample(z.detach(), z, 0.01, seed=1, backend=b),
        lambda z, b: discrete.update_sample(z.detach(), z, 0.01, seed=1, choose="mode", backend=b),
        lambda z, b: discrete.update_sample(z.detach(), z, 0.01, seed=1, choose="mean", backend=b),
    ]
    for call in calls:
        got, want = z.clone().requires_grad_(), z.double().requires_grad_()
        value, exact = call(got, backend), call(want, "reference")
        assert error(value.detach(), exact.detach()) <= 4e-6 * max(1.0, scale(exact.detach()))
        if value.requires_grad:
            by, exactly = (torch.autograd.grad(v.sum(), leaf)[0] for v, leaf in ((value, got), (exact, want)))
            assert error(by, exactly) <= 4e-6 * max(1e-3, scale(exactly))


@on_cpu
@pytest.mark.parametrize("components", [1, 40])
@pytest.mark.parametrize("expect", [{"quadrature": 20}, {"n_samples": 20, "seed": 1}], ids=["nodes", "draws"])
def test_mixtures_and_draws_by_the_dozen(components, expect, backend):
    """More draws than are worked on at a time, whose gradients are added up; some of the logits are -inf."""
    generator = torch.Generator().manual_seed(components)
    x = 2 * torch.rand(2, 20, generator=generator) - 1
    output = [torch.randn(2, 20, components, generator=generator) for _ in range(3)]
    output[1] -= 2
    output[2][..., 1::3] = -torch.inf
    mask = torch.arange(40).view(2, 20) % 5 != 0

    def found(by, dtype):
        mean, log_std, logits = leaves = [o.to(dtype).requires_grad_() for o in output]
        loss = discretised.discrete_time_loss(
            x.to(dtype),
            mean,
            log_std,
            None,
            step=5,
            sigma_1=0.1,
            num_bins=32,
            n_steps=9,
            mixture_logits=logits,
            mask=mask,
            parametrisation="data",
            reduction="none",
            backend=by,
            **expect,
        )
        return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]

    want = found("reference", torch.float64)
    check_close(found(backend, torch.float32), want, lambda: found("reference", torch.float32))


@pytest.fixture
def cuda_is_there(monkeypatch):
    """Pretends that the CUDA kernels are available, since tracing uses their schemas and fakes only."""
    there = dataclasses.replace(backends.BACKENDS["cuda"], missing=None)
    monkeypatch.setitem(backends.BACKENDS, "cuda", there)
    monkeypatch.setattr(backends, "_load_cuda", lambda: None)


with_schemas = pytest.mark.skipif("cpu" not in NATIVE, reason="the schemas come with the CPU kernels")


@with_schemas
@pytest.mark.parametrize("case", [c for c in CASES if serves(c, "cuda") and not c.alike], ids=str)
def test_traced_for_a_gpu(case, cuda_is_there):
    """Shape, type and device of what public functions return. Beside a torch without CUDA there is no autograd."""
    inputs = case.inputs((3, 4), torch.float32)
    want = case(inputs, "reference")
    with FakeTensorMode(), torch.no_grad():
        value = case({k: _on_gpu(v) for k, v in inputs.items()}, "cuda")
    assert (value.device.type, value.shape, value.dtype) == ("cuda", want.shape, want.dtype)


@with_schemas
@pytest.mark.parametrize("name", [name for name in RECORDINGS if name.startswith("cpu-")])
def test_operators_traced_for_a_gpu(name):
    """Forward and backward operators give the same shapes, types and strides as on the CPU."""
    for op, args, kwargs in RECORDINGS[name]().values():
        want = op(*args, **kwargs)
        with FakeTensorMode(), torch.no_grad():
            got = op(*map(_on_gpu, args), **kwargs)
        for value, like in zip(*(v if isinstance(v, (tuple, list)) else [v] for v in (got, want)), strict=True):
            if like is not None:
                assert (value.device.type, value.shape, value.dtype) == ("cuda", like.shape, like.dtype)
                assert value.stride() == like.stride()


def _on_gpu(value):
    """Tensors like those that are not there; under FakeTensorMode."""
    if isinstance(value, list):
        return [_on_gpu(v) for v in value]
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


@on_cpu
@pytest.mark.parametrize("clip", [True, False])
def test_expected_values_do_not_depend_on_their_neighbours(clip, backend):
    """A block sorts its variables where their standard deviations are of several rules; in order none is mixed but for
    some warps."""
    torch.manual_seed(0)
    mean, std = torch.empty(4096).uniform_(-1.2, 1.2), torch.exp(torch.empty(4096).uniform_(-7, 2))
    options = {"num_bins": 256, "clip": clip, "backend": backend}
    for count in (4096, 4095, 1024, 7):  # packs, and one by one
        order = std[:count].argsort()
        mixed = discretised.expected_value(mean[:count], std[:count], **options)
        assert torch.equal(mixed[order], discretised.expected_value(mean[:count][order], std[:count][order], **options))
        same = torch.stack([discretised.expected_value(mean[i : i + 1], std[i : i + 1], **options) for i in range(5)])
        assert torch.equal(mixed[:5], same[:, 0])


@pytest.mark.skipif(cuda_on_host.missing() is not None, reason="the shim does not run here")
def test_the_workspace_of_a_loss_has_room_for_all_partial_sums_and_rows_are_counted_in_64_bits():
    done = subprocess.run([cuda_on_host.chunks()], capture_output=True, text=True)
    assert done.returncode == 0, f"more partial sums than there is room for, or a wrong row scalar: {done.stdout}"
