// The sums of the discretised n-step loss for one variable (math/nstep.h). The points of a window are computed once for
// many draws.
#pragma once

#include <algorithm>
#include <vector>

#include "../math/nstep.h"

namespace bfn {

constexpr int64_t kDrawLanes = 8;  // how many draws are summed at a time, so that the compiler vectorises the loops

// ln sum_k p_k exp(q_k (eps - q_k / 2)) of every draw, and its derivatives by mean and std.
template <class T>
struct DrawSums {
  std::vector<T> value, by_mean, by_std;
  explicit DrawSums(int64_t draws) : value(draws), by_mean(draws), by_std(draws) {}

  WithGradient<T> at(int64_t draw) const { return {value[draw], by_mean[draw], by_std[draw]}; }
};

// Computes DrawSums. It has arrays of the points of a window, of which `weight` is the number of bins that a point
// stands for.
template <class T>
class NStepSum {
 public:
  explicit NStepSum(Bins<T> all_bins) : bins(all_bins) {
    const int64_t most = sizeof(T) == sizeof(double) ? all_bins.count : kMaxPoints;
    for (auto* array : {&distance, &q, &log_p, &by_mean, &by_std, &weight}) array->resize(most + 2);
    for (int i = 0; i < kNodes; ++i) {
      nodes[i] = static_cast<T>(legendre_node(i));
      node_weights[i] = static_cast<T>(legendre_weight(i));
    }
  }

  void operator()(T x, T mean, T std, T tau, const T* eps, int64_t draws, DrawSums<T>& out) {
    const NStepNormal<T> normal(x, mean, std, tau, bins);
    for (int64_t begin = 0, end; begin < draws; begin = end) {
      end = begin + 1;
      T least = eps[begin], most = least;
      // One window serves as many consecutive draws as possible. These are many, since the nodes of a quadrature are in
      // order, and most normals are near to each other.
      for (; end < draws; ++end) {
        const T low = eps[end] < least ? eps[end] : least, high = eps[end] > most ? eps[end] : most;
        if (!normal.share_window(low, high)) break;
        least = low;
        most = high;
      }
      make_points(normal, normal.window(least, most));
      for (int64_t i = begin; i < end; i += kDrawLanes) sum_draws(normal, eps, i, std::min(end, i + kDrawLanes), out);
    }
  }

 private:
  // An end of the window that lies inside the range of bins.
  struct Cut {
    bool low;
    NStepPlace<T> place;
  };

  Bins<T> bins;
  int64_t count = 0, num_cuts = 0;
  std::vector<T> distance, q, log_p, by_mean, by_std, weight;
  Cut cuts[2];
  T nodes[kNodes], node_weights[kNodes];

  // `normal` is passed by value. So the compiler knows that no store changes it, and vectorises the loops.
  void make_points(const NStepNormal<T> normal, const NStepWindow<T> window) {
    count = window.count();
    const auto set = [&](int64_t i, Point<T> point) {
      distance[i] = point.distance;
      weight[i] = point.weight;
    };
    if (window.every_bin) {
      for (int64_t i = 0; i < count; ++i) set(i, window.bin(static_cast<T>(i)));
    } else {
      for (int64_t i = 0; i < kNodes; ++i) set(i, window.node(nodes[i], node_weights[i]));
    }
    for (int64_t i = 0; i < count; ++i) q[i] = normal.q_at(window.base, distance[i]);
    set_log_probs(normal, window.base);
    num_cuts = 0;
    for (const bool low : {true, false}) {
      if (window.cut(low)) cuts[num_cuts++] = {low, normal.place(window.base, window.end(low))};
    }
    for (const bool first : {true, false}) {
      if (bins.clip) add_end(normal.end_bin(first));
    }
  }

  void set_log_probs(const NStepNormal<T> normal, T base) {
    T *value = log_p.data(), *mean = by_mean.data(), *std = by_std.data();
    const T* from_base = distance.data();
    if (normal.uniform) {
      std::fill_n(value, count, normal.uniform_log_p().value);
      std::fill_n(mean, count, T(0));
      std::fill_n(std, count, T(0));
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto p = normal.inner_bin(base, from_base[i]);
      value[i] = p.value;
      mean[i] = p.by_mean;
      std[i] = p.by_std;
    }
  }

  void add_end(NStepPlace<T> end) {
    q[count] = end.q;
    log_p[count] = end.log_p.value;
    by_mean[count] = end.log_p.by_mean;
    by_std[count] = end.log_p.by_std;
    weight[count++] = T(1);
  }

  // Computes the sums of the draws [begin, end), of which there are at most kDrawLanes.
  void sum_draws(const NStepNormal<T>& normal, const T* draws, int64_t begin, int64_t end, DrawSums<T>& out) const {
    T eps[kDrawLanes], top[kDrawLanes], value[kDrawLanes] = {}, mean[kDrawLanes] = {}, std[kDrawLanes] = {};
    for (int64_t j = 0; j < kDrawLanes; ++j) {
      eps[j] = draws[std::min(begin + j, end - 1)];
      top[j] = kMinusInfinity<T>;
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < kDrawLanes; ++j) {
        const T term = nstep_exponent(log_p[i], q[i], eps[j]);
        top[j] = term > top[j] ? term : top[j];
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < kDrawLanes; ++j) {
        const T term = weight[i] * exp_term(nstep_exponent(log_p[i], q[i], eps[j]) - top[j]);
        value[j] += term;
        mean[j] += term * by_mean[i];
        std[j] += term * by_std[i];
      }
    }
    for (int64_t c = 0; c < num_cuts; ++c) {
      for (int64_t j = 0; j < kDrawLanes; ++j) {
        const auto term = normal.cut_term(cuts[c].place, eps[j], cuts[c].low, top[j]);
        value[j] += term.value;
        mean[j] += term.by_mean;
        std[j] += term.by_std;
      }
    }
    for (int64_t j = 0; j < kDrawLanes; ++j) {
      const auto log_sum = normal.log_of(top[j], {value[j], mean[j], std[j]});
      value[j] = log_sum.value;
      mean[j] = log_sum.by_mean;
      std[j] = log_sum.by_std;
    }
    std::copy_n(value, end - begin, out.value.data() + begin);
    std::copy_n(mean, end - begin, out.by_mean.data() + begin);
    std::copy_n(std, end - begin, out.by_std.data() + begin);
  }
};

}  // namespace bfn
