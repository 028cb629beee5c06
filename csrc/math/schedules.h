// Accuracy schedules, and the row scalars that are computed from a time or an accuracy. All arithmetic is in double.
// Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "elementary.h"

namespace bfn {

constexpr double kTMax = 1 - 1e-6;  // the largest time of a discrete flow; later times are clamped
// The error that n t may have, since t may be rounded to float32: absolute if n t < 1, and relative otherwise.
constexpr double kStepTolerance = 1e-6;
constexpr double kRootBetaMin = 1e-10;  // if sqrt(beta) is smaller, a discrete flow returns the uniform prior

// bfn_kernels/arguments/rows.py repeats both enumerations in the same order. The function row_scalar below computes
// each row scalar.
enum class ScheduleKind : int64_t { kNone, kExponentialVariance, kQuadraticAccuracy, kLogarithmicAccuracy };
enum class RowScalar : int64_t {
  kGamma,
  kFlowStd,
  kMeanScale,
  kNoiseScale,
  kRate,
  kAlpha,
  kStd,
  kHalfPrecision,
  kLogNormaliser,
  kBeta,
  kBetaSpread,
  kKeep,
  kTake,
  kUpdateStd,
  kSenderStd,
  kAccuracy,
  kSpread
};

// `parameter` is sigma_1 for the exponential variance (80, 95), and beta_1 for the others (182, 193).
struct Schedule {
  ScheduleKind kind;
  double parameter, num_classes;

  BFN_HD double log_variance(double t) const { return 2 * std::log(parameter) * t; }
  BFN_HD double gamma(double t) const { return -exp_and_expm1(log_variance(t)).expm1; }
  BFN_HD double variance(double t) const { return exp_and_expm1(log_variance(t)).exp; }  // 1 - gamma

  BFN_HD double slope() const { return -std::expm1(-num_classes * parameter / 4); }
  BFN_HD double end() const { return std::exp(-num_classes * parameter / 4); }
  // beta(t) of the logarithmic schedule is -4/K ln(1 - slope t). If the argument of ln may be near 0, it is computed as
  // (1 - t) + t end with end = 1 - slope, which does not cancel.
  BFN_HD double beta(double t) const {
    if (kind == ScheduleKind::kQuadraticAccuracy) return parameter * t * t;
    const double passed = slope() * t;
    const double logarithm = passed < 0.5 ? std::log1p(-passed) : std::log(1 - t + t * end());
    const double beta = -4 / num_classes * logarithm;
    return beta > parameter ? parameter : beta;
  }

  // The accuracy of the i-th of n messages (95, 193).
  BFN_HD double alpha(double i, double n) const {
    if (kind == ScheduleKind::kExponentialVariance) {
      const double step = 2 * std::log(parameter) / n;
      return -std::expm1(step) * exp_and_expm1(-step * i).exp;
    }
    if (kind == ScheduleKind::kQuadraticAccuracy) return parameter * (2 * i - 1) / (n * n);
    return beta(i / n) - beta((i - 1) / n);
  }

  // alpha(t) = d beta / dt, the accuracy per unit of time.
  BFN_HD double rate(double t) const {
    if (kind == ScheduleKind::kExponentialVariance) {
      const double log_variance = 2 * std::log(parameter);
      return -log_variance * exp_and_expm1(-log_variance * t).exp;
    }
    if (kind == ScheduleKind::kQuadraticAccuracy) return 2 * parameter * t;
    return 4 / num_classes * slope() / (1 - t + t * end());
  }
};

struct RowContext {
  Schedule schedule;
  double n_steps, scale;  // n of L_n, and a factor of some row scalars
  double t_min;           // at an earlier time kMeanScale and kNoiseScale are 0

  // The number i = n t + 1 of the step that starts at a time t >= 0, or NaN if none of the n steps starts there. The
  // error of n t may be kStepTolerance.
  BFN_HD double step_of(double t) const {
    const double before = n_steps * t, whole = std::round(before);
    const double error = before < whole ? whole - before : before - whole;
    return error <= kStepTolerance * (before > 1 ? before : 1) && whole < n_steps ? whole + 1 : NAN;
  }
};

// The beta of a discrete flow (182), with the limits kTMax and kRootBetaMin.
BFN_HD double flow_beta(const Schedule& schedule, double t) {
  const double beta = schedule.beta(t > kTMax ? kTMax : t);
  return std::sqrt(beta) < kRootBetaMin ? 0 : beta;
}

// Computes one row scalar. `value` is a time or an alpha. `rho` is the precision of the state before a message. kKeep
// is rho/(rho + alpha), kTake is alpha/(rho + alpha), and kUpdateStd is sqrt(alpha)/(rho + alpha). They are written
// such that their limits are right if one of rho and alpha is 0 or infinite. If both are, the result is NaN.
BFN_HD double row_scalar(RowScalar which, const RowContext& context, double value, double rho) {
  const Schedule& schedule = context.schedule;
  const double t = value, alpha = value;
  switch (which) {
    case RowScalar::kGamma:
      return schedule.gamma(t);
    case RowScalar::kFlowStd:
      return std::sqrt(schedule.gamma(t) * schedule.variance(t));
    case RowScalar::kMeanScale:
      return t < context.t_min ? 0 : 1 / schedule.gamma(t);
    case RowScalar::kNoiseScale:
      return t < context.t_min ? 0 : std::sqrt(schedule.variance(t) / schedule.gamma(t));
    case RowScalar::kRate:
      return context.scale * schedule.rate(t);
    case RowScalar::kAlpha:
      return context.scale * schedule.alpha(context.step_of(t), context.n_steps);
    case RowScalar::kStd:
      return std::sqrt(schedule.variance(t));
    case RowScalar::kHalfPrecision:
      return 0.5 / schedule.variance(t);
    case RowScalar::kLogNormaliser:
      return std::log(2 * kPi * schedule.variance(t)) / 2;
    case RowScalar::kBeta:
      return flow_beta(schedule, t);
    case RowScalar::kBetaSpread:
      return std::sqrt(context.scale * flow_beta(schedule, t));
    case RowScalar::kKeep:
      return 1 / (1 + alpha / rho);
    case RowScalar::kTake:
      return 1 / (1 + rho / alpha);
    case RowScalar::kUpdateStd:
      return 1 / (std::sqrt(alpha) + rho / std::sqrt(alpha));
    case RowScalar::kSenderStd:
      return 1 / std::sqrt(alpha);
    case RowScalar::kAccuracy:
      return alpha;
    case RowScalar::kSpread:
      return std::sqrt(context.scale * alpha);
  }
  return NAN;
}

}  // namespace bfn
