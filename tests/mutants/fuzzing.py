"""Faults that the fuzz finds."""

from fault import Fault

FAULTS = [
    Fault(
        "csrc/bindings/direct.cpp",
        "if (negative != Py_False) throw NotPlain();",
        "if (!negative) throw NotPlain();",
        "tests/fuzz/test_fuzz_values.py -k cpu-continuous",
    ),
    Fault(
        "csrc/bindings/tensors.cpp",
        "const int64_t stride = size == 1 ? 0 : strides[d - offset];",
        "const int64_t stride = d < offset || d >= end ? 0 : strides[d - offset];",
        "tests/fuzz/test_fuzz_values.py -k cpu-continuous",
    ),
    Fault(
        "bfn_kernels/reduction.py",
        "return [t if t is None or mask is None else torch.where(mask, t, torch.zeros_like(t)) for t in tensors]",
        "return [t if t is None or mask is None else t * mask for t in tensors]",
        "tests/fuzz/test_fuzz_values.py -k cpu-discretised",
    ),
]
