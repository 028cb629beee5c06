"""Faults of the samplers: their coefficients, the steps of all backends, and the runs of `bfn`."""

from fault import Fault

SOLVERS, ADAPTIVE, ACCURATE = (f"tests/kernels/test_{name}.py" for name in ("solvers", "adaptive", "accuracy"))
RULES, STEPS = "bfn_kernels/solvers.py", "bfn_kernels/adaptive.py"
CPU, CUDA = "csrc/cpu/{}".format, "csrc/cuda/{}".format
TRITON = f"TRITON_INTERPRET=1 {ACCURATE} -k 'solver_step and float32 and {{}}'".format
ON_CPU = f"{ACCURATE} -k 'solver_step and cpu and {{}}'".format
ON_HOST = f"{ACCURATE} -k 'solver_step and cuda and {{}}'".format
SAMPLES = "tests/bfn/test_sample.py -k {}".format
LEAVES = "tests/kernels/test_solvers.py -k 'leaves and cpu'"

FAULTS = [
    # the coefficients
    Fault(RULES, "/ (2 * (s.place - r.place))", "/ (s.place - r.place)", f"{SOLVERS} -k 'order and cpu'"),
    Fault(
        RULES, "(c - b) * (2 * c + b) / (3 * (c + b) * (b - a))", "(c - b) / (2 * (b - a))", f"{SOLVERS} -k published"
    ),
    Fault(
        RULES, "t.place * (t.place - s.place))", "s.place * (t.place - s.place))", f"{SOLVERS} -k 'two_classes and cpu'"
    ),
    Fault(RULES, "Coefficients(t.std / s.std, ", "Coefficients(s.std / t.std, ", f"{SOLVERS} -k 'normal_data and cpu'"),
    Fault(
        RULES,
        "Coefficients(keep, 1 - keep, t.rest * (1 - keep))",
        "Coefficients(keep, 1 - keep, t.rest)",
        f"{SOLVERS} -k same_distribution",
    ),
    Fault(
        RULES, "torch.zeros_like(t.beta), t.beta, t.beta)", "None, t.beta, t.beta)", f"{SOLVERS} -k 'renoised and cpu'"
    ),
    Fault(RULES, "1 - h + h / (2 * s.gamma)", "1 - h + h / 2", f"{SOLVERS} -k 'normal_data and cpu'"),
    Fault(RULES, "Coefficients(1 - h, h, h * s.rest)", "Coefficients(1 - h, h, h * t.rest)", f"{SOLVERS} -k published"),
    Fault(RULES, "((1 + weight) * scale)", "(weight * scale)", f"{SOLVERS} -k 'guidance and cpu'"),
    Fault(
        RULES,
        "None if given.variance is None else (scale * given.variance)",
        "None if given.variance is None else given.variance",
        f"{SOLVERS} -k 'renoised and cpu'",
    ),
    Fault(RULES, "if checks.shows(here) and (here > there).any():", "if False:", f"{SOLVERS} -k refused"),
    # what a step writes
    Fault(
        "bfn_kernels/call/outputs.py",
        '"predicted_out": ("previous", ',
        '"predicted_out": ("", ',
        f"{SOLVERS} -k 'order and cpu'",
    ),
    Fault(
        "bfn_kernels/call/outputs.py",
        "if name not in outputs}",
        'if name not in (*outputs, "previous")}',
        f"{SOLVERS} -k memory",
    ),
    Fault(
        "bfn_kernels/call/keywords.py",
        "return drawn_seed(state, seed, generator, *noises) if noises else None",
        "return drawn_seed(state, seed, generator, *noises)",
        f"{SOLVERS} -k 'known and cpu'",
    ),
    # steps that fit
    Fault(STEPS, "accepted = error is None or error <= self.tolerance", "accepted = True", ADAPTIVE),
    Fault(STEPS, "abs(scale * float(of.take)", "abs(float(of.take) / 100", ADAPTIVE),
    Fault(STEPS, "(self.tolerance / error) ** 0.5", "(self.tolerance / error) ** 0.05", ADAPTIVE),
    # kernels
    Fault("csrc/math/solver.h", "fused(by, p - previous, p)", "fused(by, previous - p, p)", ON_CPU("ode2")),
    Fault("csrc/math/solver.h", "fused(unconditional_scale, other, scale * z)", "scale * z", ON_CPU("guided")),
    Fault("csrc/math/solver.h", "infinity() ? z : value", "infinity() ? value : value", LEAVES),
    Fault("csrc/math/solver.h", "== T(0) ? T(0) : unconditional", "== T(0) ? unconditional : unconditional", LEAVES),
    Fault(CPU("solver.h"), "if (op.prediction) store(op.prediction, start, length, p);", "", ON_CPU("prediction")),
    Fault(CPU("solver.h"), "if (op.previous) std::copy_n(ahead, length, p);", "", ON_CPU("ode2 and continuous")),
    Fault(CPU("binary.cpp"), "buffer[i] = keep[i] * state[i];", "buffer[i] = state[i];", ON_CPU("binary")),
    Fault(
        CPU("discrete.cpp"), "if (op.previous) std::copy_n(ahead, tile.numbers(), p);", "", ON_CPU("discrete and ode2")
    ),
    Fault(
        CPU("discretised.cpp"),
        "if (op.solver.on) extrapolate(op.solver, start, length, value);",
        "",
        ON_CPU("discretised"),
    ),
    Fault(CUDA("solver.h"), "if (op.prediction) at.store_data(op.prediction, p);", "", ON_HOST("prediction")),
    Fault(
        CUDA("discrete.cu"),
        "if (op.solver.previous) A::load(op.solver.previous, row, count, first, previous);",
        "",
        ON_HOST("discrete and ode2"),
    ),
    Fault(
        CUDA("classes.h"),
        "if (*unconditional) A::load(*unconditional, row, count, first, other);",
        "",
        ON_HOST("discrete and guided"),
    ),
    Fault(
        "bfn_kernels/triton_ops/solver.py",
        "tl.fma(by, p - previous, p)",
        "tl.fma(by, previous - p, p)",
        TRITON("binary and ode2"),
    ),
    Fault(
        "bfn_kernels/triton_ops/classes.py",
        "z = guided(z, load(view[6], rows, S.T, 1.0)[:, None], other,",
        "z = guided(z, load(view[8], rows, S.T, 1.0)[:, None], other,",
        TRITON("discrete and guided and sde2"),
    ),
    # runs
    Fault(
        "bfn_kernels/samplers.py",
        "times[1:-1], times[2:], times[:-2]",
        "times[1:-1], times[2:], times[1:-1] - 0.1",
        SAMPLES("second_order"),
    ),
    Fault(
        "bfn_kernels/samplers.py",
        "torch.cat([torch.zeros(1), torch.as_tensor(later)])",
        "torch.cat([torch.ones(1), torch.as_tensor(later)])",
        SAMPLES("second_order"),
    ),
    Fault(
        "bfn_kernels/nn/classes.py", "self.state_scale = num_classes", "self.state_scale = 4", SAMPLES("second_order")
    ),
]
