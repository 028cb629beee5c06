#include "../ops/schedules.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>

#include "format.h"
#include "parallel.h"
#include "view.h"

namespace bfn {
namespace {

// Throws if a number lies outside [0, high]. The error message writes `high` as `high_text`.
void check_range(const char* name, const View& view, int64_t count, double high, const char* high_text) {
  double least = HUGE_VAL, largest = -HUGE_VAL;
  bool any_nan = false;
  for (int64_t start = 0; start < count; start += kBlock) {
    double buffer[kBlock];
    const int64_t length = std::min(kBlock, count - start);
    const double* value = load(view, start, length, buffer);
    for (int64_t i = 0; i < length; ++i) {
      least = std::min(least, value[i]);
      largest = std::max(largest, value[i]);
      any_nan |= std::isnan(value[i]);
    }
  }
  if (any_nan) least = largest = NAN;
  if (least >= 0 && largest <= high) return;
  throw std::invalid_argument(std::string(name) + " must lie in [0, " + high_text + "], got values from " +
                              formatted(least) + " to " + formatted(largest));
}

// Throws an error that shows the first invalid time. A time is valid if a step of the n-step loss L_n starts at it.
[[noreturn]] void throw_for_time(const RowScalars& op) {
  double t = 0;
  for (int64_t i = 0; i < op.count; ++i) {
    t = *load(op.value, i, 1, &t);
    if (!op.starts_step(t)) break;
  }
  const std::string n = std::to_string(static_cast<int64_t>(op.context.n_steps));
  throw std::invalid_argument("t must be (i - 1)/n for a step i from 1 to n = " + n + ", got " + formatted(t) +
                              "; or pass step=i");
}

// Calls f with a member of an enumeration as a compile-time constant. `last` is the last member of the enumeration.
template <auto last, class F>
void with_constant(decltype(last) member, F&& f) {
  [&]<int64_t... which>(std::integer_sequence<int64_t, which...>) {
    ((static_cast<int64_t>(member) == which
          ? f(std::integral_constant<decltype(last), static_cast<decltype(last)>(which)>())
          : void()),
     ...);
  }(std::make_integer_sequence<int64_t, static_cast<int64_t>(last) + 1>());
}

// Returns whether the formula of this row scalar depends on the ScheduleKind.
constexpr bool depends_on_schedule(RowScalar which) {
  return which == RowScalar::kRate || which == RowScalar::kAlpha || which == RowScalar::kBeta ||
         which == RowScalar::kBetaSpread;
}

// Calls f(formula), where formula(value, rho) computes the row scalar. In `formula`, the RowScalar is a compile-time
// constant. The ScheduleKind is one, too, if the row scalar depends on it. So `formula` has no branch on either, and
// the compiler can vectorise a loop that calls it.
template <class F>
void with_formula(RowScalar wanted, const RowContext& context, F&& f) {
  with_constant<RowScalar::kSpread>(wanted, [&](auto which) {
    const auto call = [&](RowContext fixed) {
      f([fixed, which](double value, double rho) { return row_scalar(which, fixed, value, rho); });
    };
    if constexpr (!depends_on_schedule(which)) {
      call(context);
    } else {
      with_constant<ScheduleKind::kLogarithmicAccuracy>(context.schedule.kind, [&](auto kind) {
        RowContext fixed = context;
        fixed.schedule.kind = kind;
        call(fixed);
      });
    }
  });
}

}  // namespace

template <class T>
void row_scalars(const RowScalars& op) {
  const bool needs_steps = op.needs_steps();
  std::atomic<bool> bad{false};
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    double value_buffer[kBlock], rho_buffer[kBlock];
    T buffer[kBlock];
    const double* value = load(op.value, start, length, value_buffer);
    const double* rho = load(op.rho, start, length, rho_buffer);
    int64_t refused = 0;
    for (int64_t i = 0; i < length; ++i) refused += op.in_range(value[i], rho[i]) ? 0 : 1;
    if (needs_steps) {
      for (int64_t i = 0; i < length; ++i) refused += op.starts_step(value[i]) ? 0 : 1;
    }
    if (refused) bad = true;
    for (int k = 0; k < op.wanted; ++k) {
      T* out = target(op.out[k], start, buffer);
      with_formula(op.which[k], op.context, [&](auto formula) {
        for (int64_t i = 0; i < length; ++i) out[i] = static_cast<T>(formula(value[i], rho[i]));
      });
      store(op.out[k], start, length, out);
    }
  });
  if (!bad) return;
  const bool timed = op.context.schedule.kind != ScheduleKind::kNone;
  check_range(timed ? "t" : "alpha", op.value, op.count, op.high(), timed ? "1" : "inf");
  check_range("precision", op.rho, op.count, HUGE_VAL, "inf");
  throw_for_time(op);
}

BFN_INSTANTIATE(row_scalars, const RowScalars&);

}  // namespace bfn
