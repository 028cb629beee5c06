// Distributions as intervals of integers. A file of encoded data is read with exactly the numbers that wrote it, so
// there are only integers here, and all backends compute the same ones. Lengths are multiples of 2^-kUnit standard
// deviations, and probabilities are multiples of 2^-kOne.
//
// Cell m of M has the interval from F(m) to F(m + 1), F(m) = m + cdf(m) (2^kPrecision - M), so that no interval is
// empty.
#pragma once

#include "common.h"

namespace bfn {

constexpr int kPrecision = 24, kUnit = 24, kOne = 30;
// The table of the normal's distribution function covers -8 to 8 standard deviations, with 2^7 entries for each.
constexpr int kTableShift = kUnit - 7;
constexpr int64_t kTableEnd = int64_t{8} << kUnit, kTableSize = (16 << 7) + 1;

// a + b c, which wraps around where signed integers would overflow.
BFN_HD int64_t plus_product(int64_t a, int64_t b, int64_t c) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b) * static_cast<uint64_t>(c));
}

// 2^kOne times the probability below z, by linear interpolation of the table. It never falls.
BFN_HD int64_t normal_cdf(const int64_t* table, int64_t z) {
  const int64_t place = clamp(z, -kTableEnd, kTableEnd - 1) + kTableEnd;
  const int64_t low = table[place >> kTableShift], high = table[(place >> kTableShift) + 1];
  const int64_t part = place & ((int64_t{1} << kTableShift) - 1);
  return low + (plus_product(0, high - low, part) >> kTableShift);
}

// Normals whose means lie `shift` apart. Their probabilities are those of bins of another normal, whose edges lie at
// edge + k width, or the second of two has the probability `weight`.
struct Components {
  const int64_t* table;
  int64_t count, shift;
  bool is_pair;
  int64_t weight, edge, width;

  // 2^kOne times the probability of the first k normals.
  BFN_HD int64_t below(int64_t k) const {
    if (k <= 0) return 0;
    if (k >= count) return int64_t{1} << kOne;
    return is_pair ? (int64_t{1} << kOne) - weight : normal_cdf(table, plus_product(edge, k, width));
  }
  // 2^kOne times the probability of the mixture below z, a distance from the first mean. The normals far below z count
  // in full, and the normals far above z do not count.
  BFN_HD int64_t cdf(int64_t z) const {
    const int64_t first = shift > 0 && z > kTableEnd ? (z - kTableEnd) / shift : 0;
    int64_t passed = below(first);
    uint64_t total = static_cast<uint64_t>(passed) << kOne;
    for (int64_t k = first; k < count; ++k) {
      const int64_t part = normal_cdf(table, plus_product(z, -k, shift));
      if (part == 0) break;
      const int64_t next = below(k + 1);
      total += static_cast<uint64_t>(next - passed) * static_cast<uint64_t>(part);
      passed = next;
    }
    return static_cast<int64_t>(total) >> kOne;
  }
};

// F(cell), given cdf(cell).
BFN_HD int64_t interval_edge(int64_t cell, int64_t cells, int64_t cdf) {
  if (cell <= 0) return 0;
  if (cell >= cells) return int64_t{1} << kPrecision;
  return cell + (plus_product(0, at_most(cdf, int64_t{1} << kOne), (int64_t{1} << kPrecision) - cells) >> kOne);
}

// Cells and their intervals, whose starts edge(cell) are in ascending order.
struct Interval {
  int64_t cell, start, frequency;
};

// The interval of a cell. The frequency of a cell that does not exist is 0.
template <class F>
BFN_HD Interval interval_of(int64_t cell, int64_t cells, F&& edge) {
  if (cell < 0 || cell >= cells) return {cell, 0, 0};
  const int64_t start = edge(cell);
  return {cell, start, edge(cell + 1) - start};
}

// The cell whose interval holds the slot, by bisection.
template <class F>
BFN_HD Interval interval_at(int64_t slot, int64_t cells, F&& edge) {
  int64_t low = 0, high = cells, start = 0, end = int64_t{1} << kPrecision;
  while (high - low > 1) {
    const int64_t middle = (low + high) >> 1, at = edge(middle);
    if (at <= slot) {
      low = middle;
      start = at;
    } else {
      high = middle;
      end = at;
    }
  }
  return {low, start, end - start};
}

// The same two functions for K classes with these probabilities. They read a row once.
BFN_HD Interval class_interval_of(int64_t x, int64_t classes, const int64_t* weight) {
  if (x < 0 || x >= classes) return {x, 0, 0};
  int64_t below = 0;
  for (int64_t k = 0; k < x; ++k) below = plus_product(below, 1, weight[k]);
  const int64_t start = interval_edge(x, classes, below);
  return {x, start, interval_edge(x + 1, classes, plus_product(below, 1, weight[x])) - start};
}

BFN_HD Interval class_interval_at(int64_t slot, int64_t classes, const int64_t* weight) {
  int64_t below = 0, start = 0;
  for (int64_t k = 0;; ++k) {
    below = plus_product(below, 1, weight[k]);
    const int64_t end = interval_edge(k + 1, classes, below);
    if (slot < end || k + 1 >= classes) return {k, start, end - start};
    start = end;
  }
}

}  // namespace bfn
