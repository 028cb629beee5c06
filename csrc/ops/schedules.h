// Row scalars: the numbers that an op needs for each row, computed from the row's time or accuracy. A row is the
// variables that share a time or an accuracy.
#pragma once

#include "../math/schedules.h"
#include "view.h"

namespace bfn {

constexpr int kMaxRowScalars = 4;  // the most row scalars that one call computes

// Computes the row scalars `which` of each row. `value` is a time or an accuracy. Three arguments are refused: a value
// outside [0, high], a rho below 0 and, for kAlpha, a time at which no step of L_n starts. The CPU throws
// std::invalid_argument for them. The GPU writes NaN instead, since it would have to synchronise to throw.
struct RowScalars {
  int64_t count;
  View value, rho;  // rho may be missing
  RowContext context;
  int wanted = 0;  // the number of elements of `which` and `out` in use
  RowScalar which[kMaxRowScalars] = {};
  View out[kMaxRowScalars] = {};

  BFN_HD double high() const { return context.schedule.kind == ScheduleKind::kNone ? HUGE_VAL : 1; }
  BFN_HD bool in_range(double v, double r) const { return (v >= 0) & (v <= high()) & (r >= 0); }
  BFN_HD bool starts_step(double v) const { return !std::isnan(context.step_of(v)); }
  // kAlpha is the accuracy of the step that starts at a time.
  BFN_HD bool needs_steps() const {
    bool found = false;
    for (int k = 0; k < wanted; ++k) found |= which[k] == RowScalar::kAlpha;
    return found;
  }
  BFN_HD bool accepts(double v, double r) const { return in_range(v, r) && (!needs_steps() || starts_step(v)); }
};

template <class T>
void row_scalars(const RowScalars& op);

}  // namespace bfn
