// Sums of the discretised n-step loss for one variable: its points, made once for all draws, and the draws' sums.
#pragma once

#include <vector>

#include "../math/nstep.h"

namespace bfn {

constexpr int64_t kPointLanes = 16;  // points worked on at a time, so that compilers use SIMD

// ln sum_k p_k exp(q_k (eps - q_k / 2)) of every draw, with its derivatives by mean and std.
template <class T>
struct DrawSums {
  std::vector<T> top, value, by_mean, by_std;
  explicit DrawSums(int64_t draws) : top(draws), value(draws), by_mean(draws), by_std(draws) {}
};

template <class T>
class NStepSum {
 public:
  explicit NStepSum(Bins<T> of) : bins(of) {
    const int64_t most = sizeof(T) == sizeof(double) ? of.count : kMaxPoints;
    for (auto* array : {&q, &log_p, &by_mean, &by_std, &weight, &terms}) array->resize(padded(most + 2));
    for (int i = 0; i < kNodes; ++i) {
      nodes[i] = static_cast<T>(legendre_node(i));
      node_weights[i] = static_cast<T>(legendre_weight(i));
    }
  }

  void operator()(T x, T mean, T std, T tau, const T* eps, int64_t draws, DrawSums<T>& out) {
    const WithGradient<T> none{T(0), T(0), T(0)}, total = bins.clip ? none : log_total(mean, std);
    const bool uniform = !bins.clip && exp(total.value) < kTinyTotal<T>;
    const Variable v{x, mean, std, tau, uniform, Bump<T>(std, tau, uniform)};
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
      for (int64_t i = begin; i < end; ++i) {
        const Sum sum = sum_of_draw(v, window, eps[i]);
        out.top[i] = sum.top;
        out.value[i] = sum.value;
        out.by_mean[i] = sum.by_mean;
        out.by_std[i] = sum.by_std;
      }
    }
    finish(uniform ? none : total, draws, out);
  }

 private:
  struct Variable {
    T x, mean, std, tau;
    bool uniform;
    Bump<T> bump;
  };
  struct Sum {
    T top, value, by_mean, by_std;
  };

  Bins<T> bins;
  int64_t count = 0;
  std::vector<T> q, log_p, by_mean, by_std, weight, terms;
  T nodes[kNodes], node_weights[kNodes];

  static int64_t padded(int64_t n) { return (n + kPointLanes - 1) / kPointLanes * kPointLanes; }

  static void finish(WithGradient<T> total, int64_t draws, DrawSums<T>& out) {
    T *value = out.value.data(), *by_mean = out.by_mean.data(), *by_std = out.by_std.data();
    const T* top = out.top.data();
    for (int64_t i = 0; i < draws; ++i) {
      const T sum = value[i];
      value[i] = top[i] + log(sum) - total.value;
      by_mean[i] = by_mean[i] / sum - total.by_mean;
      by_std[i] = by_std[i] / sum - total.by_std;
    }
  }

  WithGradient<T> inner_bin(const Variable& v, T z, T d) const {
    if (v.uniform) return {-log(bins.real_count()), T(0), T(0)};
    return log_inner_bin(z, d, log(d), v.std);
  }

  void make_points(const Variable& v, const NStepWindow<T>& window) {
    const Origin<T> from_mean = origin_of(v.mean, bins), from_x = origin_of(v.x, bins);
    const T unit = 1 / (bins.real_count() * v.std), q_unit = 1 / (bins.real_count() * v.tau);
    count = window.every ? static_cast<int64_t>(window.length) + 1 : kNodes;
    T* distance = terms.data();
    for (int64_t i = 0; i < count; ++i) {
      distance[i] = window.every ? static_cast<T>(i) : window.offset + window.length * nodes[i % kNodes];
      weight[i] = window.every ? T(1) : window.length * node_weights[i % kNodes];
    }
    const T x_to_base = from_x.to_centre(window.base);
    for (int64_t i = 0; i < count; ++i) q[i] = (x_to_base + 2 * distance[i]) * q_unit;
    set_log_probs(v, from_mean.to_centre(window.base), unit, distance);
    if (bins.clip) {
      add_point(from_x.to_centre(T(0)) * q_unit, log_end_bin(from_mean.to_edge(T(1)) * unit, true, v.std));
      add_point(from_x.to_centre(bins.last()) * q_unit,
                log_end_bin(from_mean.to_edge(bins.last()) * unit, false, v.std));
    }
    const int64_t real = count;
    while (count % kPointLanes) add_point(q[real - 1], {log_p[real - 1], T(0), T(0)}, T(0));
  }

  void set_log_probs(const Variable& v, T to_base, T unit, const T* distance) {
    T *value = log_p.data(), *mean = by_mean.data(), *std = by_std.data();
    const T d = 2 * unit, log_d = log(d), normal_std = v.std;
    if (v.uniform) {
      std::fill_n(value, count, -log(bins.real_count()));
      std::fill_n(mean, count, T(0));
      std::fill_n(std, count, T(0));
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto p = log_inner_bin((to_base + 2 * distance[i]) * unit, d, log_d, normal_std);
      value[i] = p.value;
      mean[i] = p.by_mean;
      std[i] = p.by_std;
    }
  }

  void add_point(T at_q, WithGradient<T> p, T stands_for = T(1)) {
    q[count] = at_q;
    log_p[count] = p.value;
    by_mean[count] = p.by_mean;
    by_std[count] = p.by_std;
    weight[count++] = stands_for;
  }

  Sum sum_of_draw(const Variable& v, const NStepWindow<T>& window, T eps) {
    T tops[kPointLanes], sums[3][kPointLanes] = {};
    for (int64_t j = 0; j < kPointLanes; ++j) tops[j] = -std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < count; i += kPointLanes) {
      for (int64_t j = 0; j < kPointLanes; ++j) {
        const T term = log_p[i + j] + q[i + j] * (eps - T(0.5) * q[i + j]);
        terms[i + j] = term;
        tops[j] = term > tops[j] ? term : tops[j];
      }
    }
    Sum sum{tops[0], T(0), T(0), T(0)};
    for (const T top : tops) sum.top = top > sum.top ? top : sum.top;
    for (int64_t i = 0; i < count; i += kPointLanes) {
      for (int64_t j = 0; j < kPointLanes; ++j) {
        const T term = weight[i + j] * exp(terms[i + j] - sum.top);
        sums[0][j] += term;
        sums[1][j] += term * by_mean[i + j];
        sums[2][j] += term * by_std[i + j];
      }
    }
    for (int64_t j = 0; j < kPointLanes; ++j) {
      sum.value += sums[0][j];
      sum.by_mean += sums[1][j];
      sum.by_std += sums[2][j];
    }
    if (!window.every && window.cut_low) add_cut(v, window, eps, true, sum);
    if (!window.every && window.cut_high) add_cut(v, window, eps, false, sum);
    return sum;
  }

  void add_cut(const Variable& v, const NStepWindow<T>& window, T eps, bool low, Sum& sum) const {
    const T distance = low ? window.offset : window.offset + window.length;
    const T unit = 1 / (bins.real_count() * v.std), q_unit = 1 / (bins.real_count() * v.tau);
    const T at_q = (origin_of(v.x, bins).to_centre(window.base) + 2 * distance) * q_unit;
    const T z = (origin_of(v.mean, bins).to_centre(window.base) + 2 * distance) * unit;
    const auto p = inner_bin(v, z, 2 * unit);
    const auto w = cut_weight(p.by_mean, at_q, eps, low, bins.width(), v.tau, v.bump);
    const T term = exp(p.value + at_q * (eps - T(0.5) * at_q) - sum.top);
    sum.value += term * w.value;
    sum.by_mean += term * (w.value * p.by_mean + w.by_mean);
    sum.by_std += term * (w.value * p.by_std + w.by_std);
  }
};

}  // namespace bfn
