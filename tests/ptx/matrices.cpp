// The table's rows for products of matrices by a warp, and for asynchronous copies.
#include <array>

#include "table.h"

namespace ptx {
namespace {

using Matrix = std::array<std::array<double, 16>, 16>;

// Reads a matrix of numbers of 16 bits. A register holds two of them. place(lane, register, which) returns the row and
// the column of each.
template <class T, class F>
Matrix load_matrix(Warp& warp, const int* registers, int count, F&& place) {
  Matrix found{};
  for (int k = 0; k < count; ++k) {
    const uint64_t* reg = warp.source(registers[k]);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int which = 0; which < 2; ++which) {
        const auto [row, column] = place(lane, k, which);
        found[row][column] = T{static_cast<uint16_t>(reg[lane] >> 16 * which)}.wide();
      }
    }
  }
  return found;
}

// Rounds a sum to float32 as tensor cores might. Neither the order of the terms nor the rounding is documented. So this
// takes the largest error that one rounding can make: it rounds towards zero.
float rounded_towards_zero(double sum) {
  const RoundingMode rounding(FE_TOWARDZERO);
  volatile double exact = sum;
  return canonical(static_cast<float>(exact));
}

// d = a·b + c, where d has 16 rows and 8 columns, and the depth is 16. A lane has numbers of row lane / 4 and of the
// row 8 below it.
template <class T>
void multiply(Warp& warp, const Instruction& i, Lanes lanes) {
  if (lanes != kAllLanes) fail(warp, i, 0, "a matrix operation of a part of a warp");
  const int* const from = i.sources.data();
  const Matrix a = load_matrix<T>(warp, from, 4, [](int lane, int k, int which) {
    return std::pair{lane / 4 + k % 2 * 8, lane % 4 * 2 + which + k / 2 * 8};
  });
  const Matrix b = load_matrix<T>(
      warp, from + 4, 2, [](int lane, int k, int which) { return std::pair{lane % 4 * 2 + which + k * 8, lane / 4}; });
  std::array<std::array<float, kLanes>, 4> sums;
  for (int k = 0; k < 4; ++k) {
    const uint64_t* c = warp.source(from[6 + k]);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4 + k / 2 * 8, column = lane % 4 * 2 + k % 2;
      double sum = from_bits<float>(c[lane]);
      for (int depth = 0; depth < 16; ++depth) sum += a[row][depth] * b[depth][column];
      sums[k][lane] = rounded_towards_zero(sum);
    }
  }
  for (int k = 0; k < 4; ++k) {
    uint64_t* d = warp.result(i.results[k]);
    for (int lane = 0; lane < kLanes; ++lane) d[lane] = to_bits(sums[k][lane]);
  }
}

}  // namespace

void add_matrices(Table& table) {
  each(table, kNarrow, "mma.sync.aligned.m16n8k16.row.col.f32.#.#.f32", []<class T>(Type<T>) {
    Instruction i{.run = multiply<T>, .kind = Kind::kCollective, .of_whole_warp = true};
    return Row{.sources = 10, .base = i};
  });
  table.add("cp.async.{ca,cg}.shared{,::cta}.global",
            {.form = Form::kCopy, .base = {.run = begin_copy, .space = Space::kGlobal}});
  table.add("cp.async.commit_group", {.form = Form::kNone, .base = {.run = close_group}});
  table.add("cp.async.wait_group", {.form = Form::kSources, .sources = 1, .base = {.run = wait_for_groups}});
}

}  // namespace ptx
