#include "../ops/coding.h"

#include "../math/coding.h"
#include "access.h"

namespace bfn {
namespace {

__device__ void put(const Coded& op, int64_t i, const Interval& found) {
  op.cell[i] = found.cell;
  op.start[i] = found.start;
  op.frequency[i] = found.frequency;
}

// Calls f for the numbers that this thread handles. One thread handles one number, since bisections differ in length.
template <class F>
__device__ void for_numbers(int64_t count, F&& f) {
  const int64_t size = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += size) f(i);
}

__global__ void __launch_bounds__(kThreads) lattice_kernel(const __grid_constant__ LatticeIntervals op) {
  for_numbers(op.coded.count, [&](int64_t i) {
    const int64_t given = read<int64_t>(op.coded.given, i), offset = read<int64_t>(op.offset, i);
    const int64_t step = read<int64_t>(op.step, i);
    const Components of{op.table,
                        op.components,
                        op.shift,
                        static_cast<bool>(op.weight),
                        read<int64_t>(op.weight, i),
                        read<int64_t>(op.edge, i),
                        read<int64_t>(op.width, i)};
    const auto edge_of = [&](int64_t cell) {
      return interval_edge(cell, op.cells, of.cdf(plus_product(offset, cell, step)));
    };
    put(op.coded, i, op.coded.find ? interval_at(given, op.cells, edge_of) : interval_of(given, op.cells, edge_of));
  });
}

__global__ void __launch_bounds__(kThreads) class_kernel(const __grid_constant__ ClassIntervals op) {
  for_numbers(op.coded.count, [&](int64_t i) {
    const int64_t given = read<int64_t>(op.coded.given, i);
    const int64_t* const weight = op.weights + i * op.classes;
    put(op.coded, i,
        op.coded.find ? class_interval_at(given, op.classes, weight) : class_interval_of(given, op.classes, weight));
  });
}

}  // namespace

void lattice_intervals(const LatticeIntervals& op) {
  launch(&lattice_kernel, grid_for<General<double>>(op.coded.count), kThreads, op);
}

void class_intervals(const ClassIntervals& op) {
  launch(&class_kernel, grid_for<General<double>>(op.coded.count), kThreads, op);
}

}  // namespace bfn
