"""Faults of what the public functions take and refuse."""

from fault import Fault

ARGUMENTS, OUT = "tests/kernels/test_arguments.py", "tests/kernels/test_out.py"
NN = "tests/kernels/test_nn.py"
TIMES, SCHEDULES = "tests/kernels/test_times.py", "bfn_kernels/schedules.py"
DOCS = "tests/kernels/test_docs.py"

FAULTS = [
    Fault(
        "bfn_kernels/call/checks.py",
        "run a sampling loop under torch.no_grad(), elsewhere pass ",
        "pass ",
        "tests/kernels/test_gradients.py -k 'other_inputs and cpu and discrete.update_sample'",
    ),
    Fault(
        "bfn_kernels/nn/base.py",
        "next((dtype for dtype in types if dtype in FLOATS), torch.get_default_dtype())",
        "torch.get_default_dtype()",
        f"{NN} -k type_of",
    ),
    Fault("bfn_kernels/nn/base.py", "torch.promote_types(self.dtype, torch.float32)", "self.dtype", f"{NN} -k type_of"),
    Fault("bfn_kernels/nn/base.py", "t.to(self.dtype))", "t)", f"{NN} -k type_of"),
    Fault(
        "bfn_kernels/call/checks.py", "slice(1) if stride == 0", "slice(None) if stride == 0", f"{TIMES} -k made_once"
    ),
    Fault(
        "bfn_kernels/call/checks.py",
        "    leading(name, value, shape)\n    return value[",
        "    return value[",
        f"{TIMES} -k fit",
    ),
    Fault(
        "bfn_kernels/call/outputs.py",
        "elif isinstance(value, Coefficients):",
        "elif False:",
        f"{OUT} -k anything_that_is_given",
    ),
    Fault(
        "bfn_kernels/call/keywords.py",
        "total.expand(torch.broadcast_shapes(*leads)[: total.dim()])",
        "total",
        f"{TIMES} -k updated",
    ),
    Fault("bfn_kernels/call/outputs.py", " or out.is_neg():", ":", f"{OUT} -k negative"),
    Fault("bfn_kernels/call/outputs.py", "if stride < span:", "if stride < 0:", f"{OUT} -k not_plain"),
    Fault("bfn_kernels/call/outputs.py", " or _dims(out) != _dims(tensors[other])", "", f"{OUT} -k shared"),
    Fault("bfn_kernels/call/outputs.py", "other != itself or ", "", f"{OUT} -k shared"),
    Fault("bfn_kernels/call/outputs.py", "place[0] >= written[1]", "place[0] > written[0]", f"{OUT} -k shared"),
    Fault(
        "bfn_kernels/autograd.py",
        "torch.autograd.graph.increment_version([t for t in (out, *beside) if t is not None])",
        "pass",
        f"{OUT} -k autograd_notices",
    ),
    Fault("bfn_kernels/autograd.py", "(out, *beside) if t is not None]", "(out,)]", f"{OUT} -k theta_is"),
    Fault(
        "bfn_kernels/call/outputs.py",
        'may_be = {"out": (state_name, "the state"), ',
        'may_be = {"out": (state_name, "the state"), "theta_out": (state_name, "the state"), ',
        f"{OUT} -k theta_has",
    ),
    Fault("bfn_kernels/call/outputs.py", "read[name] = written", "pass", f"{OUT} -k theta_has"),
    Fault(
        "bfn_kernels/call/outputs.py",
        "strict=False)) | keywords)",
        'strict=False)) | {k: v for k, v in keywords.items() if k != "component_noise"})',
        f"{OUT} -k 'anything_that_is_given and discretised'",
    ),
    Fault(
        "bfn_kernels/call/outputs.py",
        "dict(zip(names, arguments, strict=False)) | keywords",
        "keywords | {state: arguments[1]}",
        f"{OUT} -k shared",
    ),
    Fault(
        "bfn_kernels/continuous/__init__.py",
        "elif not (sigma_1 is schedule is None and",
        "elif not (",
        "tests/kernels/test_errors.py -k 'bad_input and sent'",
    ),
    Fault(
        "csrc/bindings/tensors.cpp",
        "  if (out.numel() > 0) result.data = out.mutable_data_ptr();\n",
        "",
        f"{OUT} -k operator_gives",
    ),
    Fault("bfn_kernels/call/checks.py", "& (whole < n_steps)", "", f"{ARGUMENTS} -k no_step_has"),
    Fault(
        "bfn_kernels/call/checks.py", "STEP_TOLERANCE = 1e-6", "STEP_TOLERANCE = 1e-2", f"{ARGUMENTS} -k no_step_has"
    ),
    Fault("csrc/math/schedules.h", "&& whole < n_steps ?", "?", f"{ARGUMENTS} -k no_step_has"),
    Fault("csrc/math/schedules.h", "kStepTolerance = 1e-6", "kStepTolerance = 1e-2", f"{ARGUMENTS} -k no_step_has"),
    Fault(
        "bfn_kernels/triton_ops/rows.py",
        " & (whole < n_steps)",
        "",
        f"TRITON_INTERPRET=1 {ARGUMENTS} -k no_step_has",
    ),
    Fault(
        "bfn_kernels/call/keywords.py", "return (step - 1) / n_steps", "return step / n_steps", f"{ARGUMENTS} -k step"
    ),
    Fault("bfn_kernels/call/keywords.py", "least < 1 or ", "", f"{ARGUMENTS} -k bad_steps"),
    Fault("bfn_kernels/call/checks.py", "(x < low) | (x > high)", "x > high", f"{ARGUMENTS} -k range"),
    Fault("csrc/cpu/loss.h", "&& !(mask && !mask[i])", "", f"{ARGUMENTS} -k range"),
    Fault("csrc/cpu/continuous.cpp", "  range.refuse();\n", "", f"{ARGUMENTS} -k range"),
    Fault("csrc/cpu/discretised.cpp", "  range.refuse();\n", "", f"{ARGUMENTS} -k range"),
    Fault("bfn_kernels/call/checks.py", "leading if fits[0] else trailing", "trailing", f"{ARGUMENTS} -k masks"),
    Fault("bfn_kernels/call/checks.py", "if all(fits) and leading != trailing:", "if False:", f"{ARGUMENTS} -k both"),
    Fault(
        "bfn_kernels/continuous/__init__.py",
        'x, gamma, std = hide(checks.mask("mask", mask, "x", x, x.shape), x, gamma, std)',
        '(x,) = hide(checks.mask("mask", mask, "x", x, x.shape), x)',
        f"{ARGUMENTS} -k padding",
    ),
    Fault(
        "bfn_kernels/discrete/__init__.py",
        'hide(checks.mask("mask", mask, "x", x, x.shape), x, *scalars)',
        '(*hide(checks.mask("mask", mask, "x", x, x.shape), x), *scalars)',
        f"{ARGUMENTS} -k padding",
    ),
    Fault(
        "bfn_kernels/call/keywords.py",
        "torch.promote_types(precision.dtype, torch.float32)",
        "precision.dtype",
        f"{ARGUMENTS} -k few_bits",
    ),
    Fault(
        "bfn_kernels/call/keywords.py",
        "random.draw_seed(like.device, generator)",
        "random.draw_seed(like.device)",
        f"{ARGUMENTS} -k generator",
    ),
    Fault(SCHEDULES, "others = math.expm1(nats)", "pass", "tests/kernels/test_schedules.py -k equally_frequent"),
    Fault(
        SCHEDULES,
        "others * torch.special.log_ndtr(own + middle)",
        "others * torch.special.log_ndtr(own * 0 + middle)",
        "tests/kernels/test_schedules.py -k likeliest",
    ),
    Fault(
        SCHEDULES,
        "callable(getattr(schedule, method, None))",
        "hasattr(schedule, method)",
        f"{ARGUMENTS} -k schedule",
    ),
    Fault(
        "bfn_kernels/discrete/__init__.py",
        "backends.choose(backend, logits.device)\n    return (logits + y)",
        "return (logits + y)",
        f"{ARGUMENTS} -k takes_a_backend",
    ),
    # what the pages show
    Fault("README.md", "with torch.no_grad():  #", "if True:  #", f"{DOCS} -k README"),
    Fault(
        "README.md",
        "network = 10, torch.nn.Linear(27, 27)",
        "network = 10, lambda theta: 4 * theta",
        f"{DOCS} -k README",
    ),
    Fault("docs/guides/smiles.md", "with torch.no_grad():", "if True:", f"{DOCS} -k smiles"),
    Fault("docs/guides/smiles.md", "state = 1e4 * known", "state = 1e1 * known", f"{DOCS} -k smiles"),
]
