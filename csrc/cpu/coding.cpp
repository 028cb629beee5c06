#include "../ops/coding.h"

#include "../math/coding.h"
#include "view.h"

namespace bfn {
namespace {

void put(const Coded& op, int64_t i, const Interval& found) {
  op.cell[i] = found.cell;
  op.start[i] = found.start;
  op.frequency[i] = found.frequency;
}

// A number takes about as long as so many elements of a fast loop.
constexpr int64_t kWork = 64;

}  // namespace

void lattice_intervals(const LatticeIntervals& op) {
  const Coded& coded = op.coded;
  for_blocks(coded.count, kWork, [&](int64_t first, int64_t length) {
    int64_t buffers[6][kBlock];
    const View* const views[] = {&coded.given, &op.offset, &op.step, &op.weight, &op.edge, &op.width};
    const int64_t* numbers[6];
    for (int n = 0; n < 6; ++n) numbers[n] = load(*views[n], first, length, buffers[n]);
    const auto [given, offset, step, weight, edge, width] = numbers;
    for (int64_t i = 0; i < length; ++i) {
      const Components of{op.table,  op.components, op.shift, static_cast<bool>(op.weight),
                          weight[i], edge[i],       width[i]};
      const auto edge_of = [&](int64_t cell) {
        return interval_edge(cell, op.cells, of.cdf(plus_product(offset[i], cell, step[i])));
      };
      put(coded, first + i,
          coded.find ? interval_at(given[i], op.cells, edge_of) : interval_of(given[i], op.cells, edge_of));
    }
  });
}

void class_intervals(const ClassIntervals& op) {
  const Coded& coded = op.coded;
  for_blocks(coded.count, std::min(op.classes, kBlock), [&](int64_t first, int64_t length) {
    int64_t buffer[kBlock];
    const int64_t* given = load(coded.given, first, length, buffer);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t* const weight = op.weights + (first + i) * op.classes;
      put(coded, first + i,
          coded.find ? class_interval_at(given[i], op.classes, weight)
                     : class_interval_of(given[i], op.classes, weight));
    }
  });
}

}  // namespace bfn
