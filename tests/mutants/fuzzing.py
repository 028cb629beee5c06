"""Faults that the fuzz finds."""

from fault import Fault

ALIASES, HEADS, OUT, VALUES, LAYOUTS = (
    "tests/fuzz/test_fuzz_aliases.py",
    "tests/fuzz/test_fuzz_heads.py",
    "tests/fuzz/test_fuzz_out.py",
    "tests/fuzz/test_fuzz_values.py",
    "tests/fuzz/test_fuzz_layouts.py",
)

FAULTS = [
    Fault(
        "bfn_kernels/vocabulary/composed_steps.py",
        "higher = ~((top <= most[part]) | most[part].isnan())",
        "higher = ~(top <= most[part])",
        f"{HEADS} -k 'not_finite and cpu'",
    ),
    Fault(
        "bfn_kernels/vocabulary/triton_products.py",
        "bias[0] + k.to(tl.int64) * bias[1]",
        "bias[0] + k",
        f"TRITON_INTERPRET=1 {HEADS} -k layouts",
    ),
    Fault(
        "bfn_kernels/call/outputs.py",
        "strict=False)) | keywords)",
        'strict=False)) | {k: v for k, v in keywords.items() if k != "component_noise"})',
        f"{ALIASES} -k refused",
    ),
    Fault(
        "bfn_kernels/call/outputs.py",
        '"predicted_out": ("previous", ',
        '"predicted_out": ("", ',
        f"{ALIASES} -k previous",
    ),
    Fault("bfn_kernels/call/outputs.py", " or out.is_neg():", ":", f"{OUT} -k test_refused"),
    Fault("bfn_kernels/call/outputs.py", "if stride < span:", "if stride < 0:", f"{OUT} -k test_refused"),
    Fault(
        "bfn_kernels/call/outputs.py",
        "if other != itself or written != place or _dims(out) != _dims(tensors[other]):",
        "if other != itself:",
        f"{OUT} -k test_refused",
    ),
    Fault(
        "bfn_kernels/autograd.py",
        "torch.autograd.graph.increment_version([t for t in (out, *beside) if t is not None])",
        "pass",
        f"{OUT} -k 'test_taken or autograd_notices'",
    ),
    Fault(
        "csrc/bindings/tensors.cpp",
        "const int64_t stride = size == 1 ? 0 : strides[d - offset];",
        "const int64_t stride = d < offset || d >= end ? 0 : strides[d - offset];",
        f"{VALUES} -k cpu-continuous",
    ),
    Fault("csrc/bindings/tensors.cpp", "if (turn > 0) {", "if (turn > 1) {", LAYOUTS),
    Fault(
        "csrc/cpu/network.h",
        "mixed(static_cast<bool>(from.mixture_logits)),",
        "mixed(from.mixture_logits && from.components > 1),",
        f"{VALUES} -k cpu-discretised",
    ),
    Fault(
        "bfn_kernels/call/reduction.py",
        "return [t if t is None or mask is None else torch.where(mask, t, torch.zeros_like(t)) for t in tensors]",
        "return [t if t is None or mask is None else t * mask for t in tensors]",
        f"{VALUES} -k cpu-discretised",
    ),
]
