"""Faults of the C++, CUDA and Triton kernels: mixtures, what is no number, the factorised receiver, noise, ties."""

from fault import Fault

MIXTURES, NONFINITE, RECEIVERS, TIES, NOISE, GRADIENTS, BINARY = (
    f"tests/kernels/test_{name}.py"
    for name in ("mixtures", "nonfinite", "receivers", "ties", "noise", "gradients", "binary")
)
TRITON, INTERPRETED = "TRITON_INTERPRET=1 ", "tests/kernels/test_triton_interpreted.py"
HOST = "tests/cuda_on_host/test_sanitizers.py -k 'test_kernels and address and up'"
COSTS, GPU_BUILD = "tests/ptx/test_costs.py", "tests/gpu_build/test_gpu_build.py"
CUDA_ALONE, ACCURATE = "tests/kernels/test_cuda.py", "tests/kernels/test_accuracy.py"
BINARY_TRITON = "bfn_kernels/binary/triton.py"
GUARDED = "tests/kernels/test_guarded.py"
PTX = "BFN_PTX=cuda tests/kernels/test_cuda.py -k 'teams and 4100'"
CPU, MATH, CUDA = "csrc/cpu/{}".format, "csrc/math/{}.h".format, "csrc/cuda/{}".format
OPS = "bfn_kernels/triton_ops/{}.py".format

FAULTS = [
    # a read past the last row
    Fault(CUDA("classes.h"), "} else if (first < count_) {", "} else {", HOST),
    Fault(CUDA("classes.h"), "} else if (first < count_) {", "} else {", PTX),
    Fault(CUDA("classes.h"), "} else if (first < count_) {", "} else {", f"{GUARDED} -k 'draw and host'"),
    Fault(
        "gpu_build/sanitized.py",
        "backends.library(backend, torch",
        "backends.library(None, torch",
        "tests/gpu_build/test_check.py -k sanitized",
    ),
    Fault(
        "gpu_build/sanitized.py",
        "and backend.device == device",
        'and backend.name == "triton"',
        "tests/gpu_build/test_check.py -k sanitized",
    ),
    # mixtures
    Fault(
        CPU("network.h"),
        "mixed(static_cast<bool>(from.mixture_logits))",
        "mixed(from.components > 1)",
        f"{MIXTURES} -k 'single and cpu'",
    ),
    Fault(
        CPU("discretised.cpp"),
        "uniform_of<T>(component, start + i)",
        "uniform_of<T>(component, i)",
        f"{MIXTURES} -k 'components_that and cpu'",
    ),
    Fault(
        MATH("mixtures"),
        "if (share > T(0)) last = m;",
        "last = m;",
        f"{TIES} -k 'no_share and (cpu or cuda)'",
    ),
    Fault(
        CPU("noise.h"),
        "const int64_t skip = start % 4;",
        "const int64_t skip = 0;",
        f"{MIXTURES} -k 'along and cpu'",
    ),
    Fault(
        MATH("bin_prob"),
        "best = log_p > best_log_p ? bin : best;",
        "best = log_p >= best_log_p ? bin : best;",
        f"{MIXTURES} -k 'likely and (cpu or cuda)'",
    ),
    Fault(
        MATH("mixtures"),
        "if (mass > best_mass) best",
        "if (mass >= best_mass) best",
        f"{MIXTURES} -k 'likely and (cpu or cuda)'",
    ),
    Fault(
        CUDA("mixtures.cu"),
        "component.seed ? *component.seed : 0, at.start)",
        "component.seed ? *component.seed : 0, at.start % 512)",
        f"{MIXTURES} -k 'components_that and cuda'",
    ),
    Fault(
        "bfn_kernels/discretised/triton_bins.py",
        "best = tl.where(log_p > best_log_p, end, best)",
        "best = tl.where(log_p >= best_log_p, end, best)",
        f"{TRITON}{MIXTURES} -k likely",
    ),
    Fault(
        "bfn_kernels/discretised/triton_mixtures.py",
        "best = tl.where(mass > best_mass, i, best)",
        "best = tl.where(mass >= best_mass, i, best)",
        f"{TRITON}{MIXTURES} -k likely",
    ),
    # NaN and infinities
    Fault(
        MATH("common"),
        "return x > high ? high : x;",
        "return x <= high ? x : high;",
        f"{NONFINITE} -k 'none and (cpu or cuda)'",
    ),
    Fault(
        CPU("discrete.cpp"),
        "one[j] < 0 && !(share[j] > T(0))",
        "one[j] < 0 && share[j] == T(0)",
        f"{NONFINITE} -k 'row and cpu'",
    ),
    Fault(CPU("row_sums.h"), "1 / sums[set * kLanes + j]", "1 / sums[j]", f"{ACCURATE} -k 'theta and cpu'"),
    Fault(CPU("discrete.cpp"), "known_scale<T>(op.to)", "T(1)", f"{GRADIENTS} -k hands_out"),
    Fault(CPU("pages.cpp"), "kHeld = size_t{32} << 20", "kHeld = 0", "tests/kernels/test_pages.py -k few"),
    Fault(
        CPU("row_draws.h"),
        "if (!(sums[j] > 0)) drawn",
        "if (!(sums[j] - sums[j] == 0)) drawn",
        f"{NONFINITE} -k 'row and cpu'",
    ),
    Fault(
        CPU("row_draws.h"),
        "poisoned[from] || !(top[from] - top[from] == T(0)) ? -1",
        "poisoned[from] ? -1",
        f"{NONFINITE} -k 'row and cpu'",
    ),
    Fault(
        MATH("mixtures"),
        "return cumulative == cumulative ? last : -1;",
        "return last;",
        f"{NONFINITE} -k 'without_shares and (cpu or cuda)'",
    ),
    Fault(
        CUDA("discrete.cu"),
        "if (!(total.sum > T(0)))",
        "if (!(total.sum - total.sum == T(0)))",
        f"{NONFINITE} -k 'row and cuda'",
    ),
    Fault(
        OPS("classes"),
        "tl.where((bad == 0) & (best - best == 0.0), mode, -1)",
        "tl.where(bad == 0, mode, -1)",
        f"{TRITON}{NONFINITE} -k row",
    ),
    # the factorised receiver
    Fault(CPU("factorised.h"), "p[tile.first + i] < kFarShare<T>;", "p[tile.first + i] < 0;", f"{RECEIVERS} -k cpu"),
    Fault(CPU("factorised.h"), "(k == at_likeliest.at[j] ? -p_k :", "(false ? -p_k :", f"{RECEIVERS} -k cpu"),
    Fault(
        MATH("discrete"),
        "expm1(capped) * sigmoid(above)}",
        "(capped > T(1e30)) - sigmoid(-above)}",
        f"{RECEIVERS} -k '(cpu or cuda) and 27'",
    ),
    Fault(CUDA("nstep_rows.h"), "if (!(p(z_x) < kFarShare<T>))", "if (!(p(z_x) < T(0)))", f"{RECEIVERS} -k cuda"),
    Fault(
        CUDA("nstep_rows.h"),
        "by += far.by_log_rest * (k == far.likeliest ? -p_k : of_rest);",
        "by += far.by_log_rest * of_rest;",
        f"{RECEIVERS} -k cuda",
    ),
    Fault(
        "bfn_kernels/discrete/triton_receivers.py",
        "-64.0 if log_share.dtype",
        "-1e9 if log_share.dtype",
        f"{TRITON}{RECEIVERS} -k '27 and float32'",
    ),
    Fault(
        OPS("elementary"),
        "2.2250738585072014e-308 if x.dtype == tl.float64 else 1.17549435e-38",
        "1.17549435e-38",
        f"{TRITON}{RECEIVERS} -k '27 and float64'",
    ),
    Fault(
        CPU("discrete_nstep.cpp"),
        "static_cast<T>(sums.rest[j] / sums.total(j))",
        "1 - p[i]",
        f"{RECEIVERS} -k 'digits and cpu'",
    ),
    # offsets and launches of Triton's kernels
    Fault(OPS("noise"), "(tl.zeros((), tl.int64) + draw) * count", "draw * count", f"{TRITON}{INTERPRETED} -k beyond"),
    Fault(
        OPS("views"),
        "registers is not None and torch.version.hip is None",
        "registers is not None",
        "tests/kernels/test_triton.py -k registers",
    ),
    # noise and sums of discrete data
    Fault(
        MATH("philox"),
        "k1 += 0xBB67AE85u;",
        "k1 += 0xBB67AE86u;",
        f"{NOISE} -k 'known_normals_through and (cpu or cuda)'",
    ),
    Fault(
        CPU("rows.h"),
        "unit(words[row % 4][row / 4 - first])",
        "unit(words[row % 4][0])",
        f"{NOISE} -k 'same_noise and cpu and discrete.update_sample'",
    ),
    Fault(
        CPU("rows.h"),
        "const int64_t per_row = (tile.rows.num_classes + 3) / 4;",
        "const int64_t per_row = (tile.rows.num_classes + 2) / 4;",
        f"{NOISE} -k 'belongs_to_positions and cpu'",
    ),
    Fault(
        MATH("discrete"),
        "row.x > T(0.5) ? log1p(row.rest / row.x)",
        "row.x > T(2) ? log1p(row.rest / row.x)",
        f"{RECEIVERS} -k 'digits and (cpu or cuda)'",
    ),
    Fault(
        MATH("discretised"),
        "flat ? T(0) : std}",
        "flat && early ? T(0) : std}",
        f"{GRADIENTS} -k 'clamps and (cpu or cuda)'",
    ),
    Fault(
        CPU("loss.h"),
        "if (!mask[i]) buffer[i] = 0;",
        "if (!mask[i]) buffer[i] *= 0;",
        f"{GRADIENTS} -k 'behind_a_mask and cpu and continuous.continuous_time_loss'",
    ),
    Fault(
        CUDA("classes.h"),
        "moment = factor * (factor * moment + (factor * shift - next) * rest);",
        "moment = factor * factor * moment;",
        f"{GRADIENTS} -k 'likely_wrong and cuda and 4100'",
    ),
    # binary data
    Fault(MATH("binary"), "low ? p + q * ratio.exp : 1 + sum", "1 + sum", f"{BINARY} -k 'digits and cpu'"),
    Fault(MATH("binary"), "T(0) : sum - (mixture - 1);", "T(0) : T(0);", f"{BINARY} -k 'digits and cpu'"),
    Fault(MATH("binary"), "of.q > u ? T(-1) : T(1)", "of.q >= u ? T(-1) : T(1)", f"{BINARY} -k 'exceeds and cpu'"),
    Fault(MATH("binary"), "of.p > T(1e-37) ? drawn : T(-1)", "drawn", f"{BINARY} -k 'exceeds and cpu'"),
    Fault(CPU("binary.cpp"), "z[i] == z[i] ? sent[i]", "true ? sent[i]", f"{BINARY} -k 'no_numbers and cpu'"),
    Fault(CPU("binary.cpp"), "block.s[i] * eps[i]);", "eps[i]);", f"{BINARY} -k 'joint and draws and cpu'"),
    Fault(CPU("binary.cpp"), "part * whole[i]", "whole[i]", f"{BINARY} -k 'factorised and cpu'"),
    Fault(
        CPU("binary.cpp"),
        "within ? binary_draw(p[i], q[i], exp_and_expm1(-r(i))) : binary_draw_beyond(u[i], q[i], r(i))",
        "binary_draw(p[i], q[i], exp_and_expm1(-r(i)))",
        f"{ACCURATE} -k 'accurate and cpu'",
    ),
    Fault(
        CPU("noise.h"),
        "static_cast<T>(unit(words[j][i]))",
        "static_cast<T>(unit(words[0][i]))",
        f"{BINARY} -k 'known_noise and cpu'",
    ),
    Fault(MATH("elementary"), "upper ? 0.5f * x - 0.5f : x", "x", f"{BINARY} -k 'digits and cpu'"),
    Fault(MATH("binary"), "x == 0 ? T(-1) : kNaN<T>", "T(-1)", f"{CUDA_ALONE} -k neither"),
    Fault(CUDA("access.h"), "u[i + 2] = unit(w.w2)", "u[i + 2] = unit(w.w3)", f"{BINARY} -k 'known_noise and cuda'"),
    Fault(CUDA("binary.cu"), "return z == z ? sent", "return true ? sent", f"{BINARY} -k 'no_numbers and cuda'"),
    Fault(CUDA("numbers.h"), "view.stride[1] == 0 && ", "", "tests/kernels/test_times.py -k cuda"),
    Fault(CUDA("numbers.h"), "(each ? row : static", "(true ? row : static", "tests/kernels/test_times.py -k cuda"),
    Fault(
        CUDA("classes.h"),
        "team_size(num_classes, kHeldSlots, 32)",
        "team_size(num_classes, kHeldSlots, 16)",
        f"{CUDA_ALONE} -k 'teams and 512'",
    ),
    Fault(
        CUDA("sorted.h"),
        "numbers[1][i] = k.shift",
        "numbers[1][i] = k.base",
        f"{ACCURATE} -k 'continuous_time and cuda'",
    ),
    # the costs that the interpreter of PTX counts
    Fault(
        "tests/ptx/costs.cpp",
        "addresses[__builtin_ctz(lanes)] + offset",
        "addresses[__builtin_ctz(lanes)]",
        f"{COSTS} -k sectors",
    ),
    Fault("tests/ptx/costs.cpp", "kLanes / std::max<uint64_t>(1, bytes / kBank)", "kLanes", f"{COSTS} -k passes"),
    Fault(
        "tests/ptx/machine.cpp",
        "executed.lanes += __builtin_popcount(lanes)",
        "executed.lanes += kLanes",
        f"{COSTS} -k issue",
    ),
    Fault("tests/ptx/machine.cpp", "if (options.count) {", "if (true) {", f"{COSTS} -k asked"),
    Fault("tests/ptx/floats.cpp", "above = is(16)", "above = is(0)", "tests/ptx/test_floats.py -k pairs"),
    Fault(
        "gpu_build/executed.py", "executed.issues * times * 32", "executed.issues * 32", f"{GPU_BUILD} -k machine_inst"
    ),
    Fault(
        CUDA("binary.cu"), "on[j] ? s[j] * slope[j] : T(0)", "s[j] * slope[j]", f"{CUDA_ALONE} -k 'vectors and binary'"
    ),
    Fault(CUDA("binary.cu"), "abs(r) <= T(kMaxLogRatio)", "abs(r) <= T(1e9)", f"{ACCURATE} -k 'accurate and cuda'"),
    Fault(BINARY_TRITON, "(q > u) | (p == 0.0)", "(q >= u) | (p == 0.0)", f"{TRITON}{BINARY} -k exceeds"),
    Fault(BINARY_TRITON, "(q > u) | (p == 0.0)", "q > u", f"{TRITON}{BINARY} -k exceeds"),
    Fault(BINARY_TRITON, "within.to(tl.int32), 0) == 0", "within.to(tl.int32), 0) == 2", f"{TRITON}{BINARY} -k losses"),
    Fault(
        BINARY_TRITON,
        "low, p + q * exp(capped), 1.0",
        "low, 1.0 + growth, 1.0",
        f"{TRITON}{ACCURATE} -k accurate",
    ),
    Fault(
        BINARY_TRITON,
        "keep, sign * slope, 0.0",
        "keep, sign * slope, slope",
        f"{TRITON}{GRADIENTS} -k 'mask and binary'",
    ),
    Fault(OPS("noise"), "interleave(w0, w1, w2, w3)", "interleave(w0, w2, w1, w3)", f"{TRITON}{BINARY} -k known_noise"),
]
