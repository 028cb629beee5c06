// The factorised receiver of discrete data (math/discrete.h), in lanes. It adds a term for each coordinate of a
// message.
#pragma once

#include "row_sums.h"

namespace bfn {

// For each lane, the step in which it has class x of its row, or -1 if it never has this class.
struct StepOfClass {
  int32_t at[kLanes];

  StepOfClass(const Tile& tile, const int64_t (&x)[kLanes]) {
    const ClassInTile k(tile, x);
    for (int32_t j = 0; j < kLanes; ++j) {
      at[j] = !tile.rows.lanes_are_classes || k.at[j] < 0 ? k.at[j] : k.at[j] % kLanes == j ? k.at[j] / kLanes : -1;
    }
  }
};

// Writes the terms of a draw, and adds `weight` times their derivatives by p to the gradient. The compiler vectorises
// this loop only if it is in a separate function.
template <class T>
[[gnu::noinline]] void factorised_steps(int64_t steps, const int32_t* __restrict x, const T* __restrict p,
                                        const T* __restrict rest, const T* __restrict eps, const T* __restrict r,
                                        T weight, T* __restrict terms, T* __restrict gradient) {
  for (int64_t s = 0; s < steps; ++s) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t i = s * kLanes + j;
      const FactorisedTerm<T> term = factorised_term(s == x[j], p[i], rest[i], r[j], eps[i]);
      terms[i] = term.value;
      gradient[i] += weight * term.derivative;
    }
  }
}

// Whether any row has a p_x so small that the term of class x needs log_space_term.
template <class T>
bool has_tiny_shares(const Rows& rows, const int64_t (&x)[kLanes], const T* p) {
  bool any = false;
  for_tiles(rows, [&](const Tile& tile) {
    where_in_tile(tile, x, [&](int64_t, int64_t i) { any |= p[tile.first + i] < kTinyShare<T>; });
  });
  return any;
}

// The terms that log_space_term computes. If p_x is tiny, this is the term of class x. If 1 - p_k of the likeliest
// class k is tiny, too, it is also the term of class k.
template <class T>
class LogSpaceTerms {
 public:
  // `logits(tile, buffer)` returns the logits of a tile. The constructor stores e of all classes but the likeliest in
  // the scratch memory, for `add`.
  template <class F>
  LogSpaceTerms(const Rows& which, const int64_t (&classes)[kLanes], const int64_t (&modes)[kLanes],
                RowScratch<T>& scratch, F&& logits)
      : rows(which) {
    const RowSums<T> all(rows, classes, scratch, logits);
    const RowSums<T> others(rows, nullptr, scratch, [&](const Tile& tile, T* without) {
      T buffer[kBlock];
      std::copy_n(logits(tile, buffer), tile.numbers(), without);
      where_in_tile(tile, modes, [&](int64_t, int64_t i) { without[i] = kMinusInfinity<T>; });
      return without;
    });
    for (int64_t j = 0; j < kLanes; ++j) {
      const T log_total = log(static_cast<T>(all.total(j))), rest = static_cast<T>(others.rest[j]);
      log_p[j] = all.z_x[j] - all.top[j] - log_total;
      log_rest[j] = others.top[j] - all.top[j] + log(rest) - log_total;
      inverse[j] = rest > T(0) ? 1 / rest : T(0);
      x[j] = classes[j] >= 0 && log_p[j] < log(kTinyShare<T>) ? classes[j] : -1;
      likeliest[j] = x[j] >= 0 && log_rest[j] < log(kTinyShare<T>) ? modes[j] : -1;
    }
  }

  // Replaces the inaccurate terms of a draw. Adds `weight` times their derivatives by the logarithms to by_log_p and
  // by_log_rest.
  void replace(const Tile& tile, const T* eps, const T (&r)[kLanes], T weight, T* terms, T* gradient) {
    const auto set = [&](int64_t i, FactorisedTerm<T> term, double& by_log) {
      terms[i] = term.value;
      gradient[i] = 0;
      by_log += static_cast<double>(weight) * term.derivative;
    };
    where_in_tile(tile, x, [&](int64_t j, int64_t i) {
      set(i, log_space_term(log_p[j], density_shift(true, r[j], eps[i])), by_log_p[j]);
    });
    where_in_tile(tile, likeliest, [&](int64_t j, int64_t i) {
      set(i, log_space_term(log_rest[j], density_shift(false, r[j], eps[i])), by_log_rest[j]);
    });
  }

  // Adds the gradients by the logits. The gradient of ln p_x is one_hot - p. Let m be the likeliest class. The gradient
  // of ln(1 - p_m) is -p_m at m, and p_m p_k / (1 - p_m) at another class k.
  void add(const RowScratch<T>& scratch, const T* p, T* gradient) {
    sum_lanes(rows, by_log_p);
    sum_lanes(rows, by_log_rest);
    for_tiles(rows, [&](const Tile& tile) {
      const T *e = scratch.e_of(tile), *scale = scratch.sums_of(tile).scale;
      const ClassInTile at_x(tile, x), at_likeliest(tile, likeliest);
      for_numbers(tile, [&](int64_t i, int32_t k, auto j) {
        const T p_k = p[tile.first + i];
        T slope = 0;
        if (x[j] >= 0) slope = static_cast<T>(by_log_p[j]) * ((k == at_x.at[j] ? T(1) : T(0)) - p_k);
        if (likeliest[j] >= 0) {
          slope += static_cast<T>(by_log_rest[j]) * (k == at_likeliest.at[j] ? -p_k : e[i] * (scale[j] * inverse[j]));
        }
        gradient[tile.first + i] += slope;
      });
    });
  }

 private:
  Rows rows;
  int64_t x[kLanes], likeliest[kLanes];                // -1 if this class does not need log_space_term
  T log_p[kLanes], log_rest[kLanes], inverse[kLanes];  // `inverse` is 1 / (sum of e without the likeliest class)
  double by_log_p[kLanes] = {}, by_log_rest[kLanes] = {};
};

}  // namespace bfn
