// The expected values of a block of variables. The variables are sorted by their rules (EdgeRule), so that all SIMD
// lanes do the same work.
#pragma once

#include "../math/expected_value.h"
#include "parallel.h"

namespace bfn {

template <class T, int64_t kSize>
struct ExpectedArrays {
  T base[kSize], shift[kSize], by_mean[kSize], by_std[kSize];

  ExpectedValue<T> at(int64_t i) const { return {base[i], shift[i], by_mean[i], by_std[i]}; }
  void set(int64_t i, const ExpectedValue<T>& k) {
    base[i] = k.base;
    shift[i] = k.shift;
    by_mean[i] = k.by_mean;
    by_std[i] = k.by_std;
  }
};

// The variables of a block, sorted by their rules. The arrays have room for kLanes more variables, since the last group
// of lanes may extend beyond the last variable.
template <class T>
struct SortedBlock : ExpectedArrays<T, kBlock + kLanes> {
  T mean[kBlock + kLanes], std[kBlock + kLanes];
  uint16_t order[kBlock];
  uint8_t rule[kBlock];
  int64_t begin[kEdgeRules + 1] = {};

  SortedBlock(const T* means, const T* stds, int64_t length, Bins<T> bins) {
    const EdgeRuleLimits<T> limits(bins);
    for (int64_t i = 0; i < length; ++i) rule[i] = static_cast<uint8_t>(limits.rule(means[i], stds[i]));
    for (int64_t i = 0; i < length; ++i) ++begin[rule[i] + 1];
    for (int r = 0; r < kEdgeRules; ++r) begin[r + 1] += begin[r];
    int64_t next[kEdgeRules];
    std::copy_n(begin, kEdgeRules, next);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t at = next[rule[i]]++;
      order[at] = static_cast<uint16_t>(i);
      mean[at] = bins.clip ? means[i] : abs(means[i]);
      std[at] = std_of_finite(means[i], stds[i]);
    }
    std::fill_n(mean + length, kLanes, T(0));
    std::fill_n(std + length, kLanes, T(1));
  }

  // Computes the values of the variables of one rule by f(mean, std).
  template <class F>
  void each(EdgeRule which, F&& f) {
    for (int64_t i = begin[static_cast<int>(which)]; i < begin[static_cast<int>(which) + 1]; ++i) {
      this->set(i, f(mean[i], std[i]));
    }
  }

  // Computes the values of unclipped distributions. Before, all rules but kWide must have computed the values of the
  // clipped distributions at |mean|.
  void renormalise(const T* means, Bins<T> bins) {
    const int64_t wide = begin[static_cast<int>(EdgeRule::kWide)], end = begin[kEdgeRules];
    for (int64_t i = 0; i < end; ++i) mean[i] = means[order[i]];
    for (int64_t i = 0; i < wide; ++i) this->set(i, renormalised(this->at(i), mean[i], std[i], bins));
    const WideSeries<T> series(bins);
    for (int64_t i = wide; i < end; ++i) this->set(i, series.at(mean[i], std[i]));
  }

  // Computes the values of one of the first two rules. The last lanes may extend beyond the last variable of the
  // rule. The next rule overwrites their results.
  void edges(EdgeRule which, Bins<T> bins) {
    const int64_t count = edges_added(which, bins);
    for (int64_t at = begin[static_cast<int>(which)]; at < begin[static_cast<int>(which) + 1]; at += kLanes) {
      T leading[kLanes], rest[kLanes], unit[kLanes], below[kLanes];
      T first[kLanes], sums[3][kLanes] = {};
      for (int64_t j = 0; j < kLanes; ++j) {
        const EdgeWindow<T> window = edge_window(mean[at + j], std[at + j], count, bins);
        leading[j] = window.origin.leading;
        rest[j] = window.origin.rest;
        unit[j] = window.unit;
        below[j] = window.below;
        first[j] = window.first;
      }
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < kLanes; ++j) {
          const EdgeWindow<T> window{{leading[j], rest[j], bins.real_count()}, unit[j], below[j], first[j]};
          add_edge(window, static_cast<T>(i), sums[0][j], sums[1][j], sums[2][j]);
        }
      }
      for (int64_t j = 0; j < kLanes; ++j) {
        const EdgeWindow<T> window{{leading[j], rest[j], bins.real_count()}, unit[j], below[j], first[j]};
        this->set(at + j, window_value(window, sums[0][j], sums[1][j], sums[2][j], bins));
      }
    }
  }
};

// The expected values of the variables of a block.
template <class T>
struct ExpectedBlock : ExpectedArrays<T, kBlock> {
  ExpectedBlock(const T* mean, const T* std, int64_t length, Bins<T> bins) {
    if (sizeof(T) == sizeof(double)) {
      for (int64_t i = 0; i < length; ++i) this->set(i, expected_value(mean[i], std[i], bins));
      return;
    }
    SortedBlock<T> sorted(mean, std, length, bins);
    for (const EdgeRule rule : {EdgeRule::kFour, EdgeRule::kNearEnd}) sorted.edges(rule, bins);
    sorted.each(EdgeRule::kInside, [bins](T m, T s) { return inside_sum(m, s, bins); });
    sorted.each(EdgeRule::kSmooth, [bins](T m, T s) { return smooth_sum(m, s, bins); });
    if (bins.clip) {
      sorted.each(EdgeRule::kWide, [bins](T m, T s) { return wide_sum(m, s, bins); });
    } else {
      sorted.renormalise(mean, bins);
    }
    for (int64_t i = 0; i < length; ++i) this->set(sorted.order[i], sorted.at(i));
  }
};

}  // namespace bfn
