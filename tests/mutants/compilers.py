"""Compilers, graphs, transforms: layouts, changing numbers, modes, torch.func, tables."""

from fault import Fault

MODES, LAYOUTS, CALLS, GRADIENTS, ERRORS = (
    f"tests/kernels/test_{name}.py" for name in ("modes", "layouts", "calls", "gradients", "errors")
)
NOISE, CHECKS, ROWS = "bfn_kernels/noise.py", "bfn_kernels/call/checks.py", "bfn_kernels/call/rows.py"
AUTOGRAD, PRIVATE, EXTENSIONS = (f"bfn_kernels/{name}.py" for name in ("autograd", "torch_private", "extensions"))
OPERATORS, TENSORS, VIEWS = "bfn_kernels/operators.py", "csrc/bindings/tensors.cpp", "bfn_kernels/triton_ops/views.py"

STALE = "tests/kernels/test_stale.py"
RACES, CHECKED = "tests/ptx/races.h", "tests/ptx/test_checks.py"
NODES = "TRITON_INTERPRET=1 tests/kernels/test_accuracy.py -k discretised.discrete_time_loss"

FAULTS = [
    Fault(NOISE, "seed // 2**32 % 2**32, device", "seed // 2**32 % 2**31, device", f"{MODES} -k seed_that_changes"),
    Fault(NOISE, "_signed(high << 32 | low)", "_signed(low << 32 | high)", f"{MODES} -k joins_a_seed"),
    Fault(
        NOISE, "upper, lower = (word >> 16) * factor, (word & 0xFFFF) * factor",
        "upper, lower = 0 * word, word * factor",
        f"{MODES} -k seed_that_changes",
    ),
    Fault(NOISE, "return _signed(w0 | w1 << 32)", "return w0 | w1 << 32", f"{MODES} -k fold_in_of_ints"),
    Fault(
        NOISE, "if isinstance(value, bool) or not isinstance(value, (int, Tensor, Integral)):", "if value is ...:",
        f"{MODES} -k steps_are_ints",
    ),
    Fault(
        CHECKS, "torch.zeros((1,) * len(shape), dtype=torch.float64, device=model.device) + value",
        "torch.full((1,) * len(shape), float(value), dtype=torch.float64, device=model.device)",
        f"{MODES} -k numbers_that_change",
    ),
    Fault(CHECKS, "type(x) in (Tensor, torch.nn.Parameter)", "True", f"{MODES} -k fake_tensors"),
    Fault(
        ROWS, "if type(value) is not float:", "if False:", f"{MODES} -k a_schedule_that_needs",
    ),
    Fault(ROWS, "if any(scalar.requires_grad for scalar in made):", "if False:", f"{MODES} -k a_schedule_that_needs"),
    Fault("bfn_kernels/gauss.py", "return 1 / total", "return 1 / (total + last)", f"{MODES} -k test_nodes"),
    Fault("bfn_kernels/gauss.py", "[0.0] * (order % 2)", "[]", f"{MODES} -k test_nodes"),
    Fault(
        PRIVATE, 'vars(function)["_dynamo_marked_constant"] = True\n    return function',
        "return torch.compiler.assume_constant_result(function)", "tests/kernels/test_import.py -k compiler",
    ),
    Fault(EXTENSIONS, "if found is None:", "if False:", f"{STALE} -k lacks"),
    Fault(EXTENSIONS, "return None if found == declared else", "return None if found else", f"{STALE} -k other"),
    Fault(OPERATORS, "return _refusing(why)", "pass", f"{STALE} -k env_say"),
    Fault(
        "bfn_kernels/backends.py", "raise RuntimeError(_of_other_sources(", "warnings.warn(_of_other_sources(",
        f"{STALE} -k cuda",
    ),
    Fault(
        "csrc/bindings/answers.h", '"Optional[Tensor]"', '"Tensor"', f"{STALE} -k every",
    ),
    Fault(
        "tests/kernels/recorded.py", "partial(calls_of, case, backend)", "calls_of(case, backend)",
        "tests/kernels/test_import.py -k collecting",
    ),
    Fault(PRIVATE, '"_dynamo_marked_constant"', '"_marked"', "tests/kernels/test_import.py -k marked"),
    Fault(
        AUTOGRAD, "if transformed():\n                result = under_transforms(*args)",
        "if transformed():\n                result = overload(*args)", f"{MODES} -k by_torch_func",
    ),
    Fault(AUTOGRAD, "(t.requires_grad or under_transforms)", "t.requires_grad", f"{MODES} -k beyond_an_inner"),
    Fault(
        AUTOGRAD, 'raise RuntimeError(f"{name} has no gradient")', "return (None,) * len(arguments)",
        f"{MODES} -k second_derivatives",
    ),
    Fault(
        OPERATORS, "gaussian_step(wide, scale,", "gaussian_step(wide.detach(), scale,",
        f"{MODES} -k second_derivatives",
    ),
    # the seam between Python and the kernels
    Fault(
        AUTOGRAD, "if not torch.is_grad_enabled():", "if True:",
        f"{GRADIENTS} -k 'one_gradient and cpu and discrete_time'",
    ),
    Fault(
        AUTOGRAD, "(torch.is_grad_enabled() and any(", "(False and any(", f"{CALLS} -k there_is_a_graph",
    ),
    Fault(EXTENSIONS, "if kind and str(error) == message:", "if kind:", f"{ERRORS} -k only_what_was_refused"),
    Fault(EXTENSIONS, "return REFUSED[kind](message)", "return error", f"{ERRORS} -k only_what_was_refused"),
    Fault(
        AUTOGRAD, "if spares else self.places)", "if spares else sorted(self.places))",
        f"{GRADIENTS} -k 'gradcheck and cpu and continuous.update_sample'",
    ),
    Fault(
        OPERATORS, "zip(saved, forward.types[first:], forward.needed[first:],",
        "zip(saved, forward.types, forward.needed,",
        f"{GRADIENTS} -k 'one_gradient and cpu and discretised.continuous_time_loss'",
    ),
    Fault(
        TENSORS, "check(!x || x->scalar_type() == type, name,", "check(true, name,",
        "tests/kernels/test_errors.py -k 'operators_called_directly'",
    ),
    Fault(TENSORS, "if (is_dense(like)) {", "if (is_dense(like) && like.dim() > 64) {", LAYOUTS),
    Fault(TENSORS, "if (x.stride(a) == 0 || x.stride(b) == 0) return 0;", "", LAYOUTS),
    Fault(TENSORS, "return x.size(a) > x.size(b) ? 1 : 0;", "return 0;", LAYOUTS),
    Fault(VIEWS, "    if 0 in shape:\n        return dims\n", "", f"TRITON_INTERPRET=1 {LAYOUTS} -k triton"),
    Fault(VIEWS, "value += parts[part][k]", "value = parts[part][k]", NODES),
    Fault(VIEWS, "3 if dtype == torch.float64 else 1", "1", NODES),
    Fault(
        "bfn_kernels/triton_ops/rows.py", "n_steps: tl.float64", "n_steps", "tests/kernels/test_triton.py -k double"
    ),
    # races between the warps of a block, and the interpreter of PTX that finds them
    Fault(
        "bfn_kernels/triton_ops/solver.py", "        tl.debug_barrier()", "        pass",
        "BFN_PTX=triton tests/ptx/test_triton_ptx.py -k 'written_over and mode and 1040'",
    ),
    Fault(
        "bfn_kernels/triton_ops/elementary.py", "tl.fma(z, c, 1.0)", "1.0 + z * c",
        "BFN_PTX=triton tests/kernels/test_out.py -k 'theta_is_that and triton_ptx-classed and float32-torch.float32'",
    ),
    Fault(RACES, "changes ? readers_ | writers_", "changes ? writers_", f"{CHECKED} -k writes_what_another_read"),
    Fault(RACES, "changes ? readers_ | writers_", "changes ? readers_", f"{CHECKED} -k two_warps_write_global"),
    Fault(RACES, "    begin(phase);\n    if (writers_", "    if (writers_", f"{CHECKED} -k 'later_launch or warps'"),
    Fault(RACES, " && !(writers_ & bit(warp))", "", f"{CHECKED} -k harmless"),
    Fault(
        "tests/ptx/memory.cpp", "if (value && !changes && !histories[k].is_written(phase_)) continue;", "",
        f"{CHECKED} -k harmless",
    ),
    Fault("tests/ptx/machine.cpp", "(moves ? 0 : found)", "0", f"{CHECKED} -k what_another_wrote"),
    Fault("tests/ptx/machine.cpp", "lanes_[i.guard] & group : 0", "0 : 0", f"{CHECKED} -k branch_by_what"),
    Fault("tests/ptx/machine.cpp", "& ~lanes) | found", "& ~lanes)", f"{CHECKED} -k what_another_wrote"),
    Fault("tests/ptx/memory.cpp", "if (options.races) refuse_races", "refuse_races", f"{CHECKED} -k left_alone"),
    Fault("tests/ptx/integers.cpp", "kTakes && warp.carries[lane]", "kTakes", "tests/ptx/test_integers.py -k carries"),
]  # fmt: skip
