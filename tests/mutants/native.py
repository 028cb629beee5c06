"""Faults of the C++, CUDA and Triton kernels: mixtures, what is no number, the factorised receiver, noise, ties."""

from fault import Fault

MIXTURES, NONFINITE, RECEIVERS, TIES, NOISE, GRADIENTS = (
    f"tests/kernels/test_{name}.py" for name in ("mixtures", "nonfinite", "receivers", "ties", "noise", "gradients")
)
TRITON, INTERPRETED = "TRITON_INTERPRET=1 ", "tests/kernels/test_triton_interpreted.py"
HOST = "tests/cuda_on_host/test_sanitizers.py -k 'test_kernels and address and up'"
PTX = "BFN_PTX=cuda tests/kernels/test_cuda.py -k 'teams and 4100'"
CPU, MATH, CUDA = "csrc/cpu/{}".format, "csrc/math/{}.h".format, "csrc/cuda/{}".format
OPS = "bfn_kernels/triton_ops/{}.py".format

FAULTS = [
    # a read past the last row
    Fault(CUDA("classes.h"), "} else if (first < count_) {", "} else {", HOST),
    Fault(CUDA("classes.h"), "} else if (first < count_) {", "} else {", PTX),
    Fault(
        "gpu_build/sanitized.py",
        'options = {"backend": backend}',
        'options = {"backend": None}',
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
    Fault(
        CPU("discrete.cpp"),
        "if (!(sums[j] > 0)) drawn",
        "if (!(sums[j] - sums[j] == 0)) drawn",
        f"{NONFINITE} -k 'row and cpu'",
    ),
    Fault(
        CPU("rows.h"),
        "if (poisoned[j] || !(top[j] - top[j] == T(0)))",
        "if (poisoned[j])",
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
        "if (!(stats.rest > T(0)))",
        "if (!(stats.rest - stats.rest == T(0)))",
        f"{NONFINITE} -k 'row and cuda'",
    ),
    Fault(
        OPS("classes"),
        "tl.where((bad == 0) & (best - best == 0.0), mode, -1)",
        "tl.where(bad == 0, mode, -1)",
        f"{TRITON}{NONFINITE} -k row",
    ),
    # the factorised receiver
    Fault(CPU("factorised.h"), "kLanes + j] < kFarShare<T>;", "kLanes + j] < 0;", f"{RECEIVERS} -k cpu"),
    Fault(CPU("factorised.h"), "(s == at_likeliest.at[j] ? -p_k :", "(false ? -p_k :", f"{RECEIVERS} -k cpu"),
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
        "1 - p[s * kLanes + j]",
        f"{RECEIVERS} -k 'digits and cpu'",
    ),
    # offsets and launches of Triton's kernels
    Fault(
        OPS("classes"), "(tl.zeros((), tl.int64) + draw) * count", "draw * count", f"{TRITON}{INTERPRETED} -k beyond"
    ),
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
]
