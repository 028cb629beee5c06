// Sums of the discretised n-step loss for one variable: its points, made once for all draws, and the draws' sums.
#pragma once

#include <algorithm>
#include <vector>

#include "../math/nstep.h"

namespace bfn {

constexpr int64_t kDrawLanes = 8;  // draws worked on at a time, so that compilers use SIMD

// ln sum_k p_k exp(q_k (eps - q_k / 2)) of every draw, with its derivatives by mean and std.
template <class T>
struct DrawSums {
  std::vector<T> value, by_mean, by_std;
  explicit DrawSums(int64_t draws) : value(draws), by_mean(draws), by_std(draws) {}
};

template <class T>
class NStepSum {
 public:
  explicit NStepSum(Bins<T> of) : bins(of) {
    const int64_t most = sizeof(T) == sizeof(double) ? of.count : kMaxPoints;
    for (auto* array : {&distance, &q, &log_p, &by_mean, &by_std, &weight}) array->resize(most + 2);
    for (int i = 0; i < kNodes; ++i) {
      nodes[i] = static_cast<T>(legendre_node(i));
      node_weights[i] = static_cast<T>(legendre_weight(i));
    }
  }

  void operator()(T x, T mean, T std, T tau, const T* eps, int64_t draws, DrawSums<T>& out) {
    const WithGradient<T> none{T(0), T(0), T(0)}, total = bins.clip ? none : log_total(mean, std);
    const bool uniform = !bins.clip && exp(total.value) < kTinyTotal<T>;
    const Variable v{x, mean, std, tau, uniform, Bump<T>(std, tau, uniform), uniform ? none : total};
    for (int64_t begin = 0, end; begin < draws; begin = end) {
      end = begin + 1;
      T least = eps[begin], most = least;
      // as many draws as one window takes; those of a quadrature come in order, normals are near to each other
      for (; end < draws; ++end) {
        const T low = eps[end] < least ? eps[end] : least, high = eps[end] > most ? eps[end] : most;
        if ((high - low) * v.bump.by_eps > T(kMaxSpan - 2 * kReach) * v.bump.s) break;
        least = low;
        most = high;
      }
      const auto window = nstep_window(x, mean, v.bump, least, most, bins);
      make_points(v, window);
      for (int64_t i = begin; i < end; i += kDrawLanes) sum_draws(v, eps, i, std::min(end, i + kDrawLanes), out);
    }
  }

 private:
  struct Variable {
    T x, mean, std, tau;
    bool uniform;
    Bump<T> bump;
    WithGradient<T> total;
  };
  // An end of the points beyond which there are bins no more.
  struct Cut {
    bool low;
    T q;
    WithGradient<T> log_p;
  };

  Bins<T> bins;
  int64_t count = 0, num_cuts = 0;
  std::vector<T> distance, q, log_p, by_mean, by_std, weight;
  Cut cuts[2];
  T nodes[kNodes], node_weights[kNodes];

  void make_points(const Variable& v, const NStepWindow<T>& window) {
    const Origin<T> from_mean = origin_of(v.mean, bins), from_x = origin_of(v.x, bins);
    const T unit = 1 / (bins.real_count() * v.std), q_unit = 1 / (bins.real_count() * v.tau);
    const T mean_to_base = from_mean.to_centre(window.base), x_to_base = from_x.to_centre(window.base);
    count = window.every ? static_cast<int64_t>(window.length) + 1 : kNodes;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t node = i % kNodes;
      distance[i] = window.every ? static_cast<T>(i) : window.offset + window.length * nodes[node];
      weight[i] = window.every ? T(1) : window.length * node_weights[node];
    }
    for (int64_t i = 0; i < count; ++i) q[i] = (x_to_base + 2 * distance[i]) * q_unit;
    set_log_probs(v, mean_to_base, unit);
    num_cuts = 0;
    for (const bool low : {true, false}) {
      if (window.every || !(low ? window.cut_low : window.cut_high)) continue;
      const T at = low ? window.offset : window.offset + window.length, d = 2 * unit;
      const WithGradient<T> same{-log(bins.real_count()), T(0), T(0)};
      const auto p = v.uniform ? same : log_inner_bin((mean_to_base + 2 * at) * unit, d, log(d), v.std);
      cuts[num_cuts++] = {low, (x_to_base + 2 * at) * q_unit, p};
    }
    if (!bins.clip) return;
    add_end(from_x.to_centre(T(0)) * q_unit, log_end_bin(from_mean.to_edge(T(1)) * unit, true, v.std));
    add_end(from_x.to_centre(bins.last()) * q_unit, log_end_bin(from_mean.to_edge(bins.last()) * unit, false, v.std));
  }

  void set_log_probs(const Variable& v, T to_base, T unit) {
    T *value = log_p.data(), *mean = by_mean.data(), *std = by_std.data();
    const T* from_base = distance.data();
    const T d = 2 * unit, log_d = log(d), normal_std = v.std;
    if (v.uniform) {
      std::fill_n(value, count, -log(bins.real_count()));
      std::fill_n(mean, count, T(0));
      std::fill_n(std, count, T(0));
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto p = log_inner_bin((to_base + 2 * from_base[i]) * unit, d, log_d, normal_std);
      value[i] = p.value;
      mean[i] = p.by_mean;
      std[i] = p.by_std;
    }
  }

  void add_end(T at_q, WithGradient<T> p) {
    q[count] = at_q;
    log_p[count] = p.value;
    by_mean[count] = p.by_mean;
    by_std[count] = p.by_std;
    weight[count++] = T(1);
  }

  // Draws [begin, end), at most kDrawLanes.
  void sum_draws(const Variable& v, const T* draws, int64_t begin, int64_t end, DrawSums<T>& out) const {
    T eps[kDrawLanes], top[kDrawLanes], value[kDrawLanes] = {}, mean[kDrawLanes] = {}, std[kDrawLanes] = {};
    for (int64_t j = 0; j < kDrawLanes; ++j) {
      eps[j] = draws[std::min(begin + j, end - 1)];
      top[j] = -std::numeric_limits<T>::infinity();
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < kDrawLanes; ++j) {
        const T term = log_p[i] + q[i] * (eps[j] - T(0.5) * q[i]);
        top[j] = term > top[j] ? term : top[j];
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < kDrawLanes; ++j) {
        const T term = weight[i] * exp_term(log_p[i] + q[i] * (eps[j] - T(0.5) * q[i]) - top[j]);
        value[j] += term;
        mean[j] += term * by_mean[i];
        std[j] += term * by_std[i];
      }
    }
    for (int64_t c = 0; c < num_cuts; ++c) {
      const Cut& cut = cuts[c];
      for (int64_t j = 0; j < kDrawLanes; ++j) {
        const auto w = cut_weight(cut.log_p.by_mean, cut.q, eps[j], cut.low, bins.width(), v.tau, v.bump);
        const T term = exp(cut.log_p.value + cut.q * (eps[j] - T(0.5) * cut.q) - top[j]);
        value[j] += term * w.value;
        mean[j] += term * (w.value * cut.log_p.by_mean + w.by_mean);
        std[j] += term * (w.value * cut.log_p.by_std + w.by_std);
      }
    }
    for (int64_t j = 0; j < kDrawLanes; ++j) {
      mean[j] = mean[j] / value[j] - v.total.by_mean;
      std[j] = std[j] / value[j] - v.total.by_std;
      value[j] = top[j] + log(value[j]) - v.total.value;
    }
    std::copy_n(value, end - begin, out.value.data() + begin);
    std::copy_n(mean, end - begin, out.by_mean.data() + begin);
    std::copy_n(std, end - begin, out.by_std.data() + begin);
  }
};

}  // namespace bfn
