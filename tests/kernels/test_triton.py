"""What is Triton's own where nothing runs: its schemas, and tracing for a GPU."""

import pytest
import torch
from cases import CASES
from support import evaluate, serves, weights_like
from torch._subclasses.fake_tensor import FakeTensorMode

from bfn_kernels import backends
from bfn_kernels.triton_ops import NAMESPACE, SCHEMAS

if backends.BACKENDS["triton"].missing is not None:
    pytest.skip(backends.BACKENDS["triton"].missing, allow_module_level=True)


@pytest.mark.skipif(backends.CPU_BUILD is None, reason="no extension was built")
@pytest.mark.parametrize("name", [s.split("(")[0] for schemas in SCHEMAS.values() for s in schemas])
def test_schemas_are_those_of_the_native_operators(name):
    ours, native = (getattr(getattr(torch.ops, n), name).default._schema for n in (NAMESPACE, "bfn_kernels"))
    assert str(ours).removeprefix(NAMESPACE) == str(native).removeprefix("bfn_kernels")


@pytest.mark.parametrize("case", [c for c in CASES if serves(c, "triton")], ids=str)
def test_tracing_for_a_gpu_that_is_not_there(case):
    """Shapes, types and devices of results and gradients, as the compiler sees them."""
    inputs = case.inputs((3, 4), torch.float32)
    want = evaluate(case, inputs, "reference")
    with FakeTensorMode() as mode:
        on_gpu = {k: mode.from_tensor(v).to("cuda") if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        on_gpu = {k: v.requires_grad_() if k in case.diff else v for k, v in on_gpu.items()}
        result = case(on_gpu, "triton")
        found = {"result": result}
        if case.diff:
            weights = mode.from_tensor(weights_like(want["result"])).to("cuda").to(result.dtype)
            found |= dict(
                zip(case.diff, torch.autograd.grad(result, [on_gpu[k] for k in case.diff], weights), strict=True)
            )
    for name, value in found.items():
        assert (value.shape, value.dtype, value.device.type) == (want[name].shape, want[name].dtype, "cuda"), name
