"""Faults of the reference and of unclipped distributions: mostly the forms that once stood there."""

from fault import Fault

TESTS = "tests/kernels/"
REFERENCE, DISCRETE = "bfn_kernels/discretised/reference.py", "bfn_kernels/discrete/reference.py"
BINS = "bfn_kernels/discretised/bins.py"
TRITON, SCALAR = "bfn_kernels/discretised/triton_expected.py", "csrc/math/expected_value.h"
UNCLIPPED, UNCLIPPED_TRITON = f"{TESTS}test_unclipped.py", f"TRITON_INTERPRET=1 {TESTS}test_unclipped.py -k triton"

FAULTS = [
    Fault(  # no gradient at 0
        BINS,
        "torch.where(uniform, 0.0, sign * mean), torch.where(uniform, 1.0, std)",
        "torch.where(uniform, 0.0, mean.abs()), torch.where(uniform, 1.0, std)",
        f"{UNCLIPPED} -k reference",
    ),
    Fault(BINS, "    wide = std >= WIDE_STD\n", "    wide = std >= 1e9\n", f"{UNCLIPPED} -k reference"),
    Fault(BINS, "WIDE_STD, WIDE_TERMS = 2.0, 30", "WIDE_STD, WIDE_TERMS = 2.0, 9", f"{UNCLIPPED} -k reference"),
    Fault(BINS, "he, (mean * he - n * before)", "he, (mean * he - before)", f"{UNCLIPPED} -k reference"),
    Fault(
        BINS,
        "    return torch.erfc(-z * math.sqrt(0.5)) / 2\n",
        "    return torch.special.ndtr(z)\n",
        f"{UNCLIPPED} -k reference",
    ),
    Fault(
        BINS,
        "    log_total = log_interval((-1 - mean) / std, (1 - mean) / std, -mean / std, 2 / std)\n",
        "    log_total = (torch.special.ndtr((1 - mean) / std) - torch.special.ndtr((-1 - mean) / std)).log()\n",
        f"{UNCLIPPED} -k reference",
    ),
    Fault(
        REFERENCE,
        "every.split(max(1, MODE_NUMBERS // max(1, mean.numel())))",
        "every.split(1)",
        f"{TESTS}test_reference.py -k mode",
    ),
    Fault(
        REFERENCE,
        "every.split(max(1, MODE_NUMBERS // max(1, mean.numel())))",
        "every.split(num_bins)",
        f"{TESTS}test_reference.py -k mode",
    ),
    Fault(
        "bfn_kernels/call/checks.py",
        "    index = x.long()  #",
        "    index = x  #",
        f"{TESTS}test_reference.py -k integer",
    ),
    Fault(
        DISCRETE,
        "logsigmoid(others(logits, is_x)).exp()",
        "others(logits, is_x).sigmoid()",
        f"{TESTS}test_reference.py -k gradient",
    ),
    Fault(
        DISCRETE,
        "torch.where(lack < 0.5, by_lack, r.square().sum(-1))",
        "r.square().sum(-1)",
        f"{TESTS}test_reference.py -k gradient",
    ),
    Fault(
        SCALAR,
        "  if (std >= wide_std(bins)) return wide_unclipped_value(mean, std, bins);\n",
        "",
        f"{UNCLIPPED} -k 'cpu or cuda'",
    ),
    Fault(
        SCALAR,
        "i < kTerms; ++i) {\n      const T n = static_cast<T>(2 * i)",
        "i < kTerms / 2; ++i) {\n      const T n = static_cast<T>(2 * i)",
        f"{UNCLIPPED} -k 'cpu or cuda'",
    ),
    Fault(
        SCALAR, "below_by_w += mass[i] * n * (n - 1)", "below_by_w += mass[i] * n * n", f"{UNCLIPPED} -k 'cpu or cuda'"
    ),
    Fault(
        "csrc/cpu/expected_value.h",
        "this->set(i, series.at(mean[i], std[i]))",
        "this->set(i, series.at(abs(mean[i]), std[i]))",
        f"{UNCLIPPED} -k cpu",
    ),
    Fault(
        "csrc/math/bin_prob.h",
        "  return log_inner_bin((-1 - mean) / std, (1 - mean) / std, -mean / std, width, log(width), std);\n",
        "  const T left = (-1 - mean) / std, right = (1 - mean) / std;\n"
        "  return by_mean_and_std(log_interval(left, right, -mean / std, width), left, right, std);\n",
        f"{UNCLIPPED} -k 'log_prob and (cpu or cuda)'",
    ),
    Fault(TRITON, "tl.constexpr(12), tl.constexpr(1.0)", "tl.constexpr(12), tl.constexpr(1e9)", UNCLIPPED_TRITON),
    Fault(
        TRITON,
        "below_by_w += _moment_of_all(n) * n * (n - 1)",
        "below_by_w += _moment_of_all(n) * n * n",
        UNCLIPPED_TRITON,
    ),
    Fault(
        "bfn_kernels/discretised/triton_bins.py",
        "    return log_inner_bin((-1.0 - mean) / std, (1.0 - mean) / std, -mean / std, width, log(width), std)\n",
        "    left, right = (-1.0 - mean) / std, (1.0 - mean) / std\n"
        "    value, by_left, by_right = log_interval(left, right, -mean / std, width)\n"
        "    return _by_mean_and_std(value, by_left, by_right, left, right, std)\n",
        UNCLIPPED_TRITON,
    ),
]
