"""Tests of the Triton kernels that run no kernel."""

import pytest
import torch

from bfn_kernels import backends, gauss
from tests.kernels.support import INTERPRETED

if backends.BACKENDS["triton"].missing is not None:
    pytest.skip(backends.BACKENDS["triton"].missing, allow_module_level=True)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter has no types of arguments")
def test_numbers_of_a_schedule_are_double():
    """A float is passed as float32 unless its parameter says otherwise."""
    from bfn_kernels.triton_ops.row_scalars import _row_scalars

    types = {p.name: p.annotation_type for p in _row_scalars.params}
    assert {types[name] for name in ("n_steps", "scale", "first", "second", "third", "fourth")} == {"fp64"}


@pytest.mark.parametrize(("dtype", "count"), [(torch.float32, 1), (torch.float64, 3)], ids=str)
def test_tables_are_passed_exactly(dtype, count):
    from bfn_kernels.triton_ops.views import _parts

    values = [value for rule in (gauss.hermite(128), gauss.legendre(28)) for numbers in rule for value in numbers]
    parts = _parts(values, count)
    assert len(parts) == count
    total = torch.tensor(parts, dtype=torch.float64)
    assert torch.equal(total, total.float().double())
    total = total.sum(0)
    torch.testing.assert_close(total.to(dtype), torch.tensor(values, dtype=torch.float64).to(dtype), rtol=0, atol=1e-44)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter asks for no registers")
@pytest.mark.parametrize("hip", [None, "6.4"])
def test_registers_are_asked_for_where_they_can_be(hip, monkeypatch):
    """ROCm's compiler refuses options that it does not know."""
    from bfn_kernels.discretised import triton as discretised
    from gpu_build.compiled_triton import launches

    monkeypatch.setattr(torch.version, "hip", hip)
    x = torch.zeros(2, 3)
    (launch,) = launches(lambda: discretised.expected_value(x, x + 1, None, 4, True, False, False, False))
    assert ("maxnreg" in launch.options) == (hip is None)
