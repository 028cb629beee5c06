#include "../ops/schedules.h"

#include "access.h"

namespace bfn {
namespace {

// There are few row scalars, and they are computed in double. So one thread handles one row, in every layout.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) row_scalars_kernel(const __grid_constant__ RowScalars op) {
  const int64_t size = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < op.count; i += size) {
    const double rho = read<double>(op.rho, i), unchecked = read<double>(op.value, i);
    const double value = op.accepts(unchecked, rho) ? unchecked : NAN;  // if the value is NaN, every row scalar is NaN
    for (int k = 0; k < op.wanted; ++k) {
      write(op.out[k], i, static_cast<T>(row_scalar(op.which[k], op.context, value, rho)));
    }
  }
}

}  // namespace

template <class T>
void row_scalars(const RowScalars& op) {
  launch(&row_scalars_kernel<T>, grid_for<General<T>>(op.count), kThreads, op);
}

BFN_INSTANTIATE(row_scalars, const RowScalars&);

}  // namespace bfn
