// The sum over bins of the discretised n-step loss (math/nstep.h). A warp computes it. Each lane adds every 32nd point.
#pragma once

#include "../math/nstep.h"
#include "../ops/discretised.h"
#include "access.h"
#include "loss.h"
#include "nodes.h"

namespace bfn {

template <class T, class F>
__device__ T warp_reduce(T x, F combine) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(kWholeWarp, x, step));
  return x;
}

template <class T>
__device__ T warp_sum(T x) {
  return warp_reduce(x, [](T a, T b) { return a + b; });
}

// The sums of one variable. All lanes of a warp work on the same variable.
template <class T>
class NStepWarp {
 public:
  __device__ NStepWarp(T x, T mean, T std, T tau, Bins<T> bins)
      : normal_(x, mean, std, tau, bins), lane_(threadIdx.x % 32) {}

  // For every draw i calls f(i, ln sum_k p_k exp(q_k (eps_i - q_k / 2)) with its derivatives). One window serves as
  // many consecutive draws as possible. These are many, since the nodes of a quadrature are in order, and most normals
  // are near to each other.
  template <int kDraws, class F>
  __device__ void each_draw(const T (&eps)[kDraws], int draws, F&& f) {
#pragma unroll 1
    for (int begin = 0, end; begin < draws; begin = end) {
      T least = 0, most = 0;
      end = begin;
      bool open = true;
#pragma unroll
      for (int i = 0; i < kDraws; ++i) {
        if (i < begin || i >= draws || !open) continue;
        const T low = i == begin || eps[i] < least ? eps[i] : least, high = i == begin || eps[i] > most ? eps[i] : most;
        open = i == begin || normal_.share_window(low, high);
        if (!open) continue;
        least = low;
        most = high;
        end = i + 1;
      }
      window_ = normal_.window(least, most);
      make_points();
#pragma unroll
      for (int i = 0; i < kDraws; ++i) {
        if (i >= begin && i < end) f(i, of_draw(eps[i]));
      }
    }
  }

 private:
  // In double every bin is a point. These are too many for registers.
  static constexpr bool kInRegisters = sizeof(T) == sizeof(float);
  static constexpr int kSlots = kInRegisters ? kMaxPoints / 32 : 1;

  // What the sums need of a point.
  struct Term {
    T q, log_p, by_mean, by_std, weight;
  };

  NStepNormal<T> normal_;
  NStepWindow<T> window_;
  int lane_;
  Term points_[kSlots], end_;

  __device__ static Term term_of(const NStepPlace<T>& at, T weight) {
    return {at.q, at.log_p.value, at.log_p.by_mean, at.log_p.by_std, weight};
  }
  __device__ Term point(int i) const {
    const Point<T> at = nstep_point(window_, i);
    return term_of(normal_.place(window_.base, at.distance), at.weight);
  }
  __device__ void make_points() {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (lane_ + 32 * s < window_.count()) points_[s] = point(lane_ + 32 * s);
      }
    }
    if (normal_.bins.clip)
      end_ = term_of(normal_.end_bin(lane_ == 0), T(1));  // lane 0 adds bin 0, and lane 1 adds bin K - 1
  }
  // Calls f(term) for the points of this lane.
  template <class F>
  __device__ void each(F&& f) const {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (lane_ + 32 * s < window_.count()) f(points_[s]);
      }
    } else {
#pragma unroll 1
      for (int i = lane_; i < window_.count(); i += 32) f(point(i));
    }
    if (normal_.bins.clip && lane_ < 2) f(end_);
  }

  __device__ WithGradient<T> of_draw(T eps) const {
    const auto term = [eps](const Term& p) { return nstep_exponent(p.log_p, p.q, eps); };
    T top = kMinusInfinity<T>, value = 0, by_mean = 0, by_std = 0;
    each([&](const Term& p) { top = term(p) > top ? term(p) : top; });
    top = warp_reduce(top, [](T a, T b) { return b > a ? b : a; });
    each([&](const Term& p) {
      const T e = p.weight * exp(term(p) - top);
      value += e;
      by_mean += e * p.by_mean;
      by_std += e * p.by_std;
    });
    WithGradient<T> sum{warp_sum(value), warp_sum(by_mean), warp_sum(by_std)};
    if (window_.cut(true)) add_cut(eps, true, top, sum);
    if (window_.cut(false)) add_cut(eps, false, top, sum);
    return normal_.log_of(top, sum);
  }
  __device__ void add_cut(T eps, bool low, T top, WithGradient<T>& sum) const {
    const auto term = normal_.cut_term(normal_.place(window_.base, window_.end(low)), eps, low, top);
    sum.value += term.value;
    sum.by_mean += term.by_mean;
    sum.by_std += term.by_std;
  }
};

// Some draws of a variable, as many as fit the registers, and their weights.
template <class T>
struct NStepDraws {
  static constexpr int kMost = sizeof(T) == sizeof(double) ? 4 : 8;
  T eps[kMost], weight[kMost];
  int count;

  // Makes the draws of the variable `at` from draw `first` on.
  __device__ NStepDraws(const DiscretisedLoss& op, const Nodes<T>& nodes, const General<T>& at, int first, int all) {
    const Noise& noise = op.draws.noise;
    const int64_t seed = noise.seed ? *noise.seed : 0, variables = op.to.batch * op.to.per_batch;
    count = all - first < kMost ? all - first : kMost;
#pragma unroll
    for (int i = 0; i < kMost; ++i) {
      if (i >= count) continue;
      const int draw = first + i, node = draw < kMaxNodes ? draw : 0;
      T drawn[1] = {nodes.at[node]};
      if (op.draws.n_samples) at.noise(noise, seed, drawn, static_cast<uint32_t>(draw), variables);
      eps[i] = drawn[0];
      weight[i] = op.draws.n_samples ? T(1) / static_cast<T>(all) : nodes.weight[node];
    }
  }
  // Returns the draws of lane v. All lanes of the warp must call it.
  __device__ NStepDraws of_lane(int v) const {
    NStepDraws draws = *this;
#pragma unroll
    for (int i = 0; i < kMost; ++i) draws.eps[i] = i < count ? __shfl_sync(kWholeWarp, eps[i], v) : T(0);
    return draws;
  }
};

// Computes the losses of a block's chunk. Each lane of a warp has a variable, for which it makes the noise. All lanes
// then work together on one variable after the other. `Variable(op, at)` is the variable of a lane. All lanes of the
// warp call add(v, draws, first), which adds draws to the variable of lane v; `first` says whether they are its first
// draws. finish(counts) returns the loss of the lane's own variable, where `counts` says whether the variable has a
// cost.
template <class T, class Variable>
__device__ void nstep_losses(const DiscretisedLoss& op, const Nodes<T>& nodes, const Chunks& chunks) {
  const int lane = threadIdx.x % 32, all = static_cast<int>(op.draws.count());
  const Range range = range_of(chunks);
  double sum = 0;
  int32_t costs = 0;
#pragma unroll 1
  for (int64_t start = range.begin + threadIdx.x / 32 * 32; start < range.end; start += blockDim.x) {
    const bool active = start + lane < range.end;
    const General<T> at{active ? start + lane : start, 0};
    const bool counts = active && read<int>(op.to.mask, at.start, 1) != 0;
    Variable variable(op, at);
#pragma unroll 1
    for (int draw = 0; draw < all; draw += NStepDraws<T>::kMost) {
      const NStepDraws<T> own(op, nodes, at, draw, all);
#pragma unroll 1
      for (int v = 0; v < 32; ++v) {
        if (__shfl_sync(kWholeWarp, static_cast<int>(counts), v)) variable.add(v, own.of_lane(v), draw == 0);
      }
    }
    if (!active) continue;
    const T loss[1] = {variable.finish(counts)};
    if (op.to.reduction == Reduction::kNone) at.store_compute(op.to.loss, loss);
    sum += loss[0];
    costs += counts;
  }
  finish_block<T>(op.to, chunks, sum, costs);
}

}  // namespace bfn
