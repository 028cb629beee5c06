#include "schedules.h"

#include <limits>

namespace bfn {

template <class T>
void row_numbers(const RowNumbers& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    double value_buffer[kBlock], rho_buffer[kBlock];
    T buffer[kBlock];
    const double* value = load(op.value, start, length, value_buffer);
    const double* rho = load(op.rho, start, length, rho_buffer);
    for (int64_t i = 0; i < length; ++i) {
      const bool good = inside(value[i], 0.0, op.high) && inside(rho[i], 0.0, std::numeric_limits<double>::infinity());
      if (!good) *op.bad = true;
    }
    for (int k = 0; k < op.wanted; ++k) {
      T* out = target(op.out[k], start, buffer);
      for (int64_t i = 0; i < length; ++i) {
        out[i] = static_cast<T>(row_number(op.which[k], op.context, value[i], rho[i]));
      }
      store(op.out[k], start, length, out);
    }
  });
}

template void row_numbers<float>(const RowNumbers&);
template void row_numbers<double>(const RowNumbers&);

}  // namespace bfn
