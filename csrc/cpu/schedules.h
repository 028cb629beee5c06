// Loops over the numbers of rows.
#pragma once

#include <atomic>

#include "../math/schedules.h"
#include "parallel.h"
#include "view.h"

namespace bfn {

constexpr int kMaxRowNumbers = 4;  // made at a time

struct RowNumbers {
  int64_t count;
  View value, rho;  // rho may be missing
  double high;      // of the range [0, high] in which they must lie
  RowContext context;
  int wanted;
  RowNumber which[kMaxRowNumbers];
  View out[kMaxRowNumbers];
  std::atomic<bool>* bad;  // set where a value lies outside its range
};

template <class T>
void row_numbers(const RowNumbers& op);

}  // namespace bfn
