"""Faults of what is infinite or no number, of classes that are ruled out, and of the limits that hold predictions."""

from fault import Fault

NONFINITE, MASKED = "tests/kernels/test_nonfinite.py", "tests/kernels/test_masked_classes.py"
ADAPTIVE, PATCH = "tests/kernels/test_adaptive.py", "tests/kernels/test_patch.py -k limits"
TRITON = "TRITON_INTERPRET=1 "
BINS, CLASSES = "bfn_kernels/discretised/reference.py", "bfn_kernels/discrete/reference.py"
NSTEP, LARGE = (f"bfn_kernels/discrete/triton_{name}.py" for name in ("nstep", "nstep_large"))

FAULTS = [
    # what is no number stays none
    Fault(BINS, " | log_p.isnan()", "", f"{NONFINITE} -k 'a_mode_shows and reference'"),
    Fault(
        BINS, "mean = torch.where(shares.isnan().any(-1), torch.nan, mean)", "pass",
        f"{NONFINITE} -k 'without_shares and reference'",
    ),
    Fault(CLASSES, " + 0 * logits.detach().amax(-1, keepdim=True)", "", f"{NONFINITE} -k 'row_without and reference'"),
    Fault(
        "csrc/math/bin_prob.h", "std == std ? bins.centre(best) : std", "bins.centre(best)",
        f"{NONFINITE} -k 'a_mode_shows and cpu'",
    ),
    Fault(
        "bfn_kernels/discretised/triton_bins.py", "tl.where(std == std, centre(best, K), std)", "centre(best, K)",
        f"{TRITON}{NONFINITE} -k a_mode_shows",
    ),
    Fault("csrc/cuda/nstep_rows.h", " + (top_ - top_)", "", f"{NONFINITE} -k 'costs and cuda'"),
    # classes that are ruled out
    Fault(
        CLASSES, "return some(logits).logsumexp(-1)", "return logits.logsumexp(-1)",
        f"{MASKED} -k 'losses and joint and reference'",
    ),
    Fault(
        "csrc/math/elementary.h", "return before > T(0) && after > T(0) ?", "return false ?",
        f"{MASKED} -k 'losses and joint and 200.0-17 and cpu'",
    ),
    Fault(
        "csrc/math/binary.h", "softplus_fall(-u, -u - r, -r)", "softplus(-u) - softplus(-u - r)",
        f"{MASKED} -k 'binary and cpu'",
    ),
    Fault(
        "csrc/cpu/discrete_nstep.cpp", "(z[i] - before.top[j]) + d.at(j, eps[i]); });\n"
        "      where_met(tile, x, [&](int64_t j, int64_t i) { shifted[i] = z[i] - before.top[j]; });",
        "z[i] + d.at(j, eps[i]); });\n      where_met(tile, x, [&](int64_t, int64_t i) { shifted[i] = z[i]; });",
        f"{MASKED} -k 'differences and cpu'",
    ),
    Fault(
        "csrc/cuda/nstep_rows.h", "softplus_fall(before, before + difference, difference)",
        "softplus(before) - softplus(before + difference)", f"{MASKED} -k 'losses and two and 200.0 and cuda'",
    ),
    Fault(
        "csrc/cuda/nstep_rows.h", "return (z - top_) + message(k, eps);", "return z + message(k, eps);",
        f"{MASKED} -k 'differences and cuda'",
    ),
    Fault(
        "bfn_kernels/triton_ops/elementary.py", "(before > 0.0) & (after > 0.0)", "(before > 1e38) & (before < 0.0)",
        f"{TRITON}{MASKED} -k 'losses and joint and 200.0-17'",
    ),
    Fault(NSTEP, "z -= tl.max(z, 1)[:, None]", "z += 0.0", f"{TRITON}{MASKED} -k 'differences and 17'"),
    Fault(LARGE, "moved - rest)", "0.0 * rest)", f"{TRITON}{MASKED} -k 'losses and joint and 200.0-4100'"),
    # limits
    Fault(
        "bfn_kernels/patch/bayesian_flow_networks.py", "nn.Continuous(network(bfn), **settings)",
        "nn.Continuous(network(bfn), sigma_1(flow))", PATCH,
    ),
    Fault(
        "bfn_kernels/patch/bayesian_flow_networks.py", "outputs=(2,)), **settings)",
        'outputs=(2,)), sigma_1(flow), num_bins=settings["num_bins"])', PATCH,
    ),
    Fault(
        "bfn_kernels/patch/bfn_solver.py", ', "limits": ANY_TIME', "",
        "tests/kernels/test_patch_solver.py -k start_before",
    ),
    Fault("bfn_kernels/adaptive.py", "if p.numel() == 0:", "if False:", f"{ADAPTIVE} -k no_examples"),
    Fault(
        "bfn_kernels/adaptive.py", "self.accepted + 1 + (self.t < self.end)", "self.accepted + 1",
        f"{ADAPTIVE} -k bounded",
    ),
    Fault("bfn_kernels/samplers.py", "tolerance, max_calls=max_calls)", "tolerance)", "tests/bfn/test_cli.py -k sampl"),
]  # fmt: skip
