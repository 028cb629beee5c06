"""Faults of the public functions, of what they share, of the Triton, C++ and CUDA kernels, and of the gates."""

from fault import Fault

PUBLIC, TIES, ROWS, LIMITS = (f"tests/kernels/test_{name}.py" for name in ("public", "ties", "rows", "limits"))
PROPERTIES, GATE = "tests/kernels/test_properties.py", "tests/benchmarks/test_benchmarks.py"
TRITON, INTERPRETED = "TRITON_INTERPRET=1 ", "tests/kernels/test_triton_interpreted.py"
STEPS = "tests/kernels/test_vocabulary_steps.py"
FAMILY = "bfn_kernels/{}/__init__.py".format
OPS = "bfn_kernels/triton_ops/{}.py".format

FAULTS = [
    # public functions
    Fault(FAMILY("discrete"), "n_samples = 10", "n_samples = 5", f"{PUBLIC} -k expectations"),
    Fault(FAMILY("discretised"), "quadrature = 8", "quadrature = 4", f"{PUBLIC} -k expectations"),
    Fault(
        "bfn_kernels/operators.py", "and not keeps_saved()", "and True",
        "tests/kernels/test_binary.py -k keeps_its_gradients",
    ),
    Fault(FAMILY("binary"), "quadrature = 8", "quadrature = 7", "tests/kernels/test_binary.py -k nothing_is_said"),
    Fault(FAMILY("binary"), "schedule, scale=2)", "schedule, scale=1)", "tests/kernels/test_docs.py"),
    Fault(
        "bfn_kernels/call/keywords.py", '*others] if choose == "sample"', '*others] if choose != "mean"',
        f"{PUBLIC} -k seed",
    ),
    Fault(
        "bfn_kernels/call/keywords.py", "kept = max(v.dim()", "kept = min(v.dim()", f"{PUBLIC} -k shape_and_type",
    ),
    Fault(
        "bfn_kernels/call/keywords.py", "dtype = torch.promote_types(precision.dtype, torch.float32) if isinstance",
        "dtype = torch.float32 if isinstance", f"{PUBLIC} -k shape_and_type",
    ),
    Fault("bfn_kernels/call/keywords.py", "quadrature > MAX_NODES", "quadrature >= MAX_NODES", f"{PUBLIC} -k nodes"),
    Fault(
        FAMILY("continuous"), "network._replace(prediction=prediction.to(dtype))",
        "network._replace(prediction=prediction.to(dtype), low=-math.inf, high=math.inf)", f"{PUBLIC} -k by_bins",
    ),
    Fault(
        FAMILY("continuous"), "*NO_DRAWS, *bins, *to)", "*NO_DRAWS, *bins, None, to.reduction)", f"{PUBLIC} -k by_bins",
    ),
    Fault(
        "bfn_kernels/noise.py", "words[..., 0] | (words[..., 1] << 32)", "words[..., 0]", f"{PUBLIC} -k folded",
    ),
    Fault(FAMILY("discrete"), "(logits + y).to(logits.dtype)", "logits + y", f"{PUBLIC} -k types"),
    Fault(
        "bfn_kernels/call/keywords.py", "torch.get_default_dtype() if dtype is None", "torch.float32 if dtype is None",
        f"{PUBLIC} -k types",
    ),
    Fault(
        FAMILY("discrete"), "schedule, scale=logits.shape[-1] / 2)", "schedule, scale=logits.shape[-1])",
        "tests/kernels/test_docs.py",
    ),
    Fault(
        FAMILY("continuous"), 'limits, ("rate",), scale=0.5', 'limits, ("rate",), scale=1.0',
        "tests/kernels/test_docs.py",
    ),
    Fault(
        "bfn_kernels/backends.py", "for backend in BACKENDS.values():", "for backend in reversed(BACKENDS.values()):",
        "tests/kernels/test_cuda.py -k which_comes_first",
    ),
    Fault(
        FAMILY("continuous"), "checks.compute_dtype(noise_pred, mean)", "checks.compute_dtype(noise_pred)",
        f"{PUBLIC} -k one_argument",
    ),
    Fault(
        FAMILY("discretised"), "parametrisation, 1.0, x", "parametrisation, 0.9, x", f"{PUBLIC} -k end_of_time",
    ),
    Fault(
        FAMILY("discretised"), "draws = component_noises(mixture_logits, component_noise, mean.shape)", "draws = []",
        f"{PUBLIC} -k stands_for",
    ),
    # the reference and what it shares
    Fault(
        "bfn_kernels/noise.py", "COMPONENT = 5", "COMPONENT = 1",
        "tests/kernels/test_noise.py -k 'same_noise and mixture and cpu and float32'",
    ),
    Fault(
        "bfn_kernels/discretised/reference.py",
        "dtype = compute_dtype(x, *network[:4])",
        "dtype = compute_dtype(*network[:4])",
        f"{PUBLIC} -k 'one_argument and reference'",
    ),
    Fault(
        "bfn_kernels/noise.py", "p.cumsum(-1) > uniform", "p.cumsum(-1) >= uniform",
        f"{TIES} -k 'u_at and reference'",
    ),
    Fault(
        "bfn_kernels/noise.py", "((num_classes + 3) // 4) + group", "(num_classes // 4 + 1) + group",
        "tests/kernels/test_tiles.py -k 16-cpu",
    ),
    Fault(
        "bfn_kernels/noise.py", "flatten(1)[:, first - 4 * start :]", "flatten(1)[:, 0:]",
        "tests/kernels/test_sharded.py -k processes",
    ),
    Fault(
        "bfn_kernels/vocabulary/sums.py", "two * other.rest + less", "two * other.rest",
        "tests/kernels/test_vocabulary.py -k 'cuda_on_host and reconstruction and float32'",
    ),
    Fault(
        "bfn_kernels/vocabulary/tiles.py", "self.shard.first + classes.start", "self.shard.first",
        "tests/kernels/test_vocabulary.py -k 'cpu and reconstruction and float32'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed.py", "torch.where(head.tokens.valid, _scale(head, reduction), 0)",
        "torch.where(head.tokens.valid, _scale(head, 2), 0)",
        "tests/kernels/test_vocabulary.py -k logits_are_made_once",
    ),
    Fault(
        "bfn_kernels/vocabulary/tiles.py", "logits.add_(self.bias[classes][some])",
        "logits.add_(self.bias[classes][: logits.shape[1]])",
        "tests/kernels/test_vocabulary.py -k 'logits_are_made_once or cpu-torch.float32'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed.py", "by_logits, [head.dtype] * 4, wanted)",
        "by_logits, types_of_head(of_head), wanted)",
        "tests/kernels/test_vocabulary.py -k small_gradients",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed.py", "head.y.mul_(tile).sum(1)", "head.y.sum(1)",
        "tests/kernels/test_vocabulary.py -k 'reference and follows and cpu and float32'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed.py", "flow.flow_seed, flow.flow_noise, dtype, random.SENDER",
        "flow.flow_seed, flow.flow_noise, dtype, random.MONTE_CARLO",
        "tests/kernels/test_vocabulary.py -k 'small or reference and follows and cuda_on_host and float32'",
    ),
    Fault(
        "bfn_kernels/vocabulary/tiles.py", "memory.addcmul_(self.scale[part].unsqueeze(-1), ", "memory.add_(",
        "tests/kernels/test_vocabulary.py -k 'reference and follows and cpu and float32'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed_steps.py", "head._replace(hidden=solver.previous, flow_scale=scale)",
        "head._replace(hidden=solver.previous)", f"{STEPS} -k 'reference and follows and cpu and float32'",
    ),
    Fault(
        "csrc/cpu/vocabulary.cpp", "y[k] = message(T(1), beta", "y[k] = message(T(0), beta",
        "tests/kernels/test_vocabulary.py -k 'reference and follows and cpu and float32'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed.py", "tile.sum(0)", "tile.sum(0, dtype=torch.float64)",
        "tests/kernels/test_vocabulary.py -k twentieth",
    ),
    # sampling with a large vocabulary
    Fault(
        "bfn_kernels/vocabulary/composed_steps.py", "torch.where(place < len(sums), place, last)", "place",
        f"{STEPS} -k 'ends_of and cpu'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed_steps.py", "~((top <= most[part]) | most[part].isnan())",
        "~(top <= most[part])", f"{STEPS} -k 'classes_that_are_no and cpu'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed_steps.py", "place + shard.first + classes.start", "place + shard.first",
        f"{STEPS} -k 'stores_the_logits and cpu and float32'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed_steps.py", "embedded[part].mul_(self.kept[part].unsqueeze(-1)).addmm_",
        "embedded[part].addmm_",
        f"{STEPS} -k 'stores_the_logits and cpu and float32'",
    ),
    Fault(
        "csrc/cpu/vocabulary.cpp", "if (op.out.dtype != dtype_of<T>()) load(", "if (false) load(",
        f"{STEPS} -k 'narrower and cpu'",
    ),
    Fault(
        "bfn_kernels/vocabulary/composed_steps.py", "torch.where(place == shard.place, tile, -1)", "tile",
        "tests/kernels/test_sharded.py -k processes",
    ),
    Fault(
        "bfn_kernels/nn/layers.py", "discrete.theta(part)", "discrete.theta(part.roll(1, -1))",
        f"{STEPS} -k embedding_of_a_state",
    ),
    Fault(
        "bfn_kernels/call/reduction.py", ".clamp(min=1)", "", f"{PROPERTIES} -k 'masks and reference'",
    ),
    Fault("bfn_kernels/call/rows.py", "T_MIN = 1e-6", "T_MIN = 1.1e-6", f"{ROWS} -k ends_of_time"),
    Fault("bfn_kernels/call/rows.py", "T_MAX = 1 - 1e-6", "T_MAX = 1 - 1.1e-6", f"{ROWS} -k ends_of_time"),
    Fault("bfn_kernels/call/rows.py", "ROOT_BETA_MIN = 1e-10", "ROOT_BETA_MIN = 0.0", f"{ROWS} -k ends_of_time"),
    Fault(
        "bfn_kernels/call/rows.py", "checks.step_of(row.value, row.n_steps)", "row.n_steps * row.value",
        f"{ROWS} -k by_formula",
    ),
    # a step on a prediction, the network's normal, theta beside a step
    Fault(
        "bfn_kernels/continuous/operators.py", "torch.where(saved.known_mask, 0, grad_sent)", "grad_sent",
        "tests/kernels/test_accuracy.py -k 'known and continuous.update_sample and cpu'",
    ),
    Fault(
        "bfn_kernels/continuous/operators.py", "kept + grad_mean if through_mean else kept", "kept",
        f"{PUBLIC} -k a_step_on",
    ),
    Fault(
        "bfn_kernels/discretised/distribution.py", "pred_log_std.to(dtype), *scales,", "pred_log_std, *scales,",
        f"{PUBLIC} -k limits_of",
    ),
    Fault(
        "csrc/cpu/continuous.cpp", "sent[i] = clamp(from.x_hat(i), from.low, from.high);", "sent[i] = from.x_hat(i);",
        f"{PUBLIC} -k 'a_step_on and cpu'",
    ),
    Fault(
        "csrc/cuda/continuous.cu", "from.x_hat[j] = given[j] ? known[j] : from.x_hat[j];", "from.x_hat[j] = known[j];",
        "tests/kernels/test_accuracy.py -k 'known and continuous.update_sample and cuda'",
    ),
    Fault(
        "csrc/cpu/discretised.cpp", "store(op.grad, start, length, from.std_by_log_std)",
        "store(op.grad, start, length, from.std)", "tests/kernels/test_accuracy.py -k 'output_distribution and cpu'",
    ),
    Fault(
        "csrc/cuda/discretised.cu", "at.store_own(op.grad, normals.std_by_log_std)",
        "at.store_own(op.grad, normals.std)", "tests/kernels/test_accuracy.py -k 'output_distribution and cuda'",
    ),
    Fault(
        "csrc/cuda/discrete.cu", "kSlots>(team, op.out, op.theta, row, count)",
        "kSlots>(team, op.state, op.theta, row, count)", "tests/kernels/test_out.py -k 'theta_is and cuda'",
    ),
    Fault(
        "bfn_kernels/discrete/triton.py", "z.to(results.state[0].dtype.element_ty).to(S.T)", "z",
        f"{TRITON}tests/kernels/test_out.py -k theta_is",
    ),
    Fault("bfn_kernels/call/keywords.py", "t_min=t_min, **numbers", "**numbers", f"{LIMITS} -k before_t_min"),
    Fault(FAMILY("continuous"), "*STD_RANGE) ** 2)", "*STD_RANGE))", "tests/kernels/test_docs.py"),
    Fault("bfn_kernels/call/keywords.py", "    if low > high:", "    if False:", "tests/kernels/test_errors.py"),
    # Triton
    Fault(
        "bfn_kernels/discretised/triton_bins.py", "low: tl.constexpr = C.STD_MIN", "low: tl.constexpr = 1e-3",
        f"{TRITON}{LIMITS} -k gradient_passes",
    ),
    Fault(
        "bfn_kernels/discrete/triton.py", "(cumulative > threshold", "(cumulative >= threshold",
        f"{TRITON}{TIES} -k u_at",
    ),
    Fault(
        "bfn_kernels/vocabulary/triton_tiles.py", "tl.sum((e == 1.0).to(tl.int32), 1) - 1, 0)",
        "tl.sum((e == 1.0).to(tl.int32), 1), 0)",
        f"{TRITON}tests/kernels/test_vocabulary.py -k 'float32 and reconstruction and masked'",
    ),
    Fault(
        "bfn_kernels/vocabulary/triton_tiles.py", "(first // 4 + tl.arange", "((first + 3) // 4 + 1 + tl.arange",
        f"{TRITON}tests/kernels/test_vocabulary.py -k part_of_the_classes",
    ),
    Fault(
        "bfn_kernels/vocabulary/triton_products.py", "vectors, sums * kept[:, None])", "vectors, sums)",
        "BFN_PTX=triton tests/kernels/test_vocabulary.py -k 'part_of_the_classes and 3-torch.bfloat16'",
    ),
    Fault(
        "bfn_kernels/vocabulary/triton_products.py", "by[split].unsqueeze(-1)", "by[0].unsqueeze(-1)",
        "BFN_PTX=triton tests/kernels/test_vocabulary.py -k 'part_of_the_classes and 0-torch.bfloat16'",
    ),
    Fault(
        "bfn_kernels/vocabulary/triton_products.py", "max(1, programs(count, tile))", "programs(count, tile)",
        f"{TRITON}tests/kernels/test_sharded.py -k as_one",
    ),
    Fault(
        "bfn_kernels/vocabulary/triton_products.py", "k.to(tl.int64) * bias[1]", "k",
        f"{TRITON}tests/kernels/test_vocabulary.py -k wide_bias",
    ),
    Fault(OPS("classes"), "(top > best) | ", "(top >= best) | ", f"{TRITON}{TIES} -k equal_maxima"),
    Fault(
        OPS("classes"), "bad = tl.maximum(bad, tl.max((z != z).to(tl.int32), 1))", "bad = bad",
        f"{TRITON}{TIES} -k nan",
    ),
    Fault(
        OPS("classes"), "return new, total * kept + tl.sum(", "return new, total + tl.sum(",
        f"{TRITON}{INTERPRETED} -k several_tiles",
    ),
    Fault(
        "bfn_kernels/continuous/triton.py", "tl.where(_is_clipped(x_hat, network), 0.0, -slope",
        "tl.where((x_hat <= network.low) | (x_hat >= network.high), 0.0, -slope", f"{TRITON}{TIES} -k clip",
    ),
    Fault(
        "bfn_kernels/continuous/triton.py", "tl.where(_is_clipped(x_hat, network), 0.0, load(",
        "tl.where((x_hat <= network.low) | (x_hat >= network.high), 0.0, load(", f"{TRITON}{TIES} -k clip",
    ),
    Fault(
        OPS("reduction"), "there = place < length - done", "there = place < length", f"{TRITON}{TIES} -k more_parts",
    ),
    Fault(
        OPS("reduction"), "range(0, length, BLOCK)", "range(0, BLOCK, BLOCK)", f"{TRITON}{TIES} -k more_parts",
    ),
    Fault(OPS("reduction"), "counts + done + place", "counts + place", f"{TRITON}{TIES} -k more_parts"),
    Fault(OPS("reduction"), "keep = keep & there", "keep = keep", f"{TRITON}{TIES} -k beyond_the_last"),
    Fault(
        OPS("noise"), "tl.where(row % 4 == 1, w1, w3)", "tl.where(row % 4 == 1, w3, w1)",
        f"{TRITON}tests/kernels/test_noise.py -k 'same_noise and update_sample and float32'",
    ),
    Fault(
        OPS("views"), "pointer + (row + 1) * stride", "pointer + row * stride",
        f"{TRITON}{INTERPRETED} -k longer_than_a_block",
    ),
    Fault(
        OPS("rows"), "tl.where(value > T_MAX, T_MAX, value)", "value",
        f"{TRITON}{ROWS} -k 'by_formula and QuadraticAccuracy'",
    ),
    Fault(
        "bfn_kernels/discretised/triton_mixtures.py", "(cumulative <= uniform) & (share > 0.0)",
        "(cumulative <= uniform)", f"{TRITON}{TIES} -k no_share",
    ),
    Fault(
        "bfn_kernels/continuous/triton.py", "tl.where((mean_scale == 0.0) & (noise_scale == 0.0), 0.0, x_hat), mean",
        "x_hat, mean", f"{TRITON}{PUBLIC} -k before_anything",
    ),
    # C++
    Fault(
        "csrc/cpu/view.h", "std::min(times - skip, length)", "times - skip",
        "tests/kernels/test_times.py -k 'any_length and cpu'",
    ),
    Fault(
        "csrc/cpu/view.h", "to[i * kTimes + j] =", "to[i * kTimes + j % 2] =",
        "tests/kernels/test_times.py -k 'any_length and cpu'",
    ),
    Fault(
        "csrc/cpu/view.h", "view.stride[d - 1] - view.size[d] * view.stride[d]", "view.stride[d - 1]",
        "tests/kernels/test_times.py -k 'any_length and cpu'",
    ),
    Fault("csrc/math/elementary.h", "1 / 479001600.0", "1 / 39916800.0", f"{ROWS} -k every_size"),
    Fault("csrc/math/elementary.h", "1 / 6227020800.0", "0", f"{ROWS} -k half_a_unit"),
    Fault("csrc/cpu/loss.h", "sums[i - whole] += x[i];", "sums[0] += 0 * x[i];", f"{PROPERTIES} -k 'masks and cpu'"),
    Fault(
        "csrc/cpu/row_draws.h", "passed[j] += sum[j] > most[j] ? 0 : 1", "passed[j] += sum[j] >= most[j] ? 0 : 1",
        f"{TIES} -k 'u_at and cpu'",
    ),
    Fault("csrc/cpu/row_draws.h", "k)] > T(0)) last", "k)] >= T(0)) last", f"{TIES} -k 'no_share and cpu'"),
    Fault(
        "csrc/cpu/row_draws.h", "(most[j] == top[to] && k < mode[to])", "most[j] == top[to]",
        f"{TIES} -k 'equal_maxima and cpu'",
    ),
    Fault("csrc/cpu/loss.h", "std::max<int64_t>(count, 1)", "count", f"{PROPERTIES} -k 'masks and cpu'"),
    Fault(
        "csrc/math/continuous.h", "x_hat < low || x_hat > high", "x_hat <= low || x_hat >= high",
        f"{TIES} -k 'clip and (cpu or cuda_on_host)'",
    ),
    Fault(
        "csrc/math/schedules.h", "t < of.t_min ? 0 : 1 / schedule", "t < 1.1 * of.t_min ? 0 : 1 / schedule",
        f"{ROWS} -k ends_of_time",
    ),
    Fault(
        "csrc/math/discretised.h", "low = T(limits.std_min)", "low = T(1e-3)",
        f"{LIMITS} -k 'gradient_passes and (cpu or cuda)'",
    ),
    Fault(
        "csrc/math/expected_value.h", "bin - down + up", "bin + 0 * (down + up)",
        f"{LIMITS} -k 'far_beyond and continuous_time and 16-1e-06 and (cpu or cuda)'",
    ),
    Fault(
        "csrc/math/nstep.h", "((edge + 2 - from.leading) + beyond) * unit", "left + 2 * unit",
        f"{LIMITS} -k 'far_beyond and discrete_time and (cpu or cuda)'",
    ),
    Fault(
        "csrc/cpu/view.h", "out[2 * i + 1] = b[i]", "out[2 * i + 1] = a[i]",
        "tests/kernels/test_accuracy.py -k 'stacked and cpu and float32'",
    ),
    Fault(
        "csrc/bindings/tensors.cpp", "which * x.stride(dims) *", "which *",
        "tests/kernels/test_accuracy.py -k 'strided and stacked and cpu'",
    ),
    # CUDA
    Fault(
        "csrc/cuda/discrete.cu", "cumulative > below &&", "cumulative >= below &&", f"{TIES} -k 'u_at and cuda'",
    ),
    Fault(
        "csrc/cuda/classes.h", "z == number && k < first ?", "z == number ?",
        f"{TIES} -k 'equal_maxima and cuda'",
    ),
    Fault(
        "csrc/cuda/loss.cu", "i < pieces; i += blockDim.x", "i < pieces; i += pieces", f"{TIES} -k 'sum and cuda'",
    ),
    Fault("csrc/cuda/loss.cu", "kMean && count > 0 ?", "kMean ?", f"{PROPERTIES} -k 'masks and cuda'"),
    Fault(
        "csrc/cuda/team.h", "warp < rank / 32; ++warp) before", "warp < rank / 32 - 1; ++warp) before",
        f"{TIES} -k 'u_at and cuda'",
    ),
    # the gates of benchmarks/ and gpu_build/
    Fault(
        "benchmarks/measure.py", "isinstance(run, Base) != elsewhere:", "isinstance(run, Base) and not elsewhere:",
        f"{GATE} -k another_process",
    ),
    Fault(
        "benchmarks/gate.py", "off = torch.where(got.isnan().any(1, keepdim=True), math.nan, off)", "pass",
        f"{GATE} -k worst_row",
    ),
    Fault(
        "benchmarks/gate.py", "all(e <= self.tolerance for e", "any(e <= self.tolerance for e",
        f"{GATE} -k gate_refuses",
    ),
    Fault(
        "benchmarks/gate.py", "min=1e-3 * size.max().item()", "min=size.max().item()",
        f"{GATE} -k worst_row",
    ),
    Fault(
        "gpu_build/__main__.py", "getattr(e, what) > most", "getattr(e, what) >= most",
        "tests/gpu_build/test_gpu_build.py -k budget_refuses",
    ),
    Fault("gpu_build/__main__.py", " and only in name and", " and", "tests/gpu_build/test_gpu_build.py -k by_name"),
    Fault(
        "gpu_build/executed.py", 'if only in f"{backend} {named.name}":', "if True:",
        "tests/gpu_build/test_gpu_build.py -k chosen_by_name",
    ),
]  # fmt: skip
