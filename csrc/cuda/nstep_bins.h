// The sum over bins of the discretised n-step loss, by the lanes of a warp: each takes every 32nd point.
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

// One variable, the same for all lanes.
template <class T>
class NStepWarp {
 public:
  __device__ NStepWarp(T x, T mean, T std, T tau, Bins<T> bins)
      : x_(x), mean_(mean), std_(std), tau_(tau), bins_(bins), bump_(std, tau, false) {
    total_ = bins.clip ? WithGradient<T>{T(0), T(0), T(0)} : log_total(mean, std);
    uniform_ = !bins.clip && exp(total_.value) < kTinyTotal<T>;
    if (uniform_) bump_ = Bump<T>(std, tau, true);
    lane_ = threadIdx.x % 32;
    unit_ = 1 / (bins.real_count() * std);
    q_unit_ = 1 / (bins.real_count() * tau);
    log_width_ = log(2 * unit_);
  }

  // f(i, ln sum_k p_k exp(q_k (eps_i - q_k / 2))) of every draw, with derivatives. Draws that one window takes share
  // its points; those of a quadrature come in order, normals are near to each other.
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
        open = i == begin || !((high - low) * bump_.by_eps > T(kMaxSpan - 2 * kReach) * bump_.s);
        if (!open) continue;
        least = low;
        most = high;
        end = i + 1;
      }
      window_ = nstep_window(x_, mean_, bump_, least, most, bins_);
      hold_points();
#pragma unroll
      for (int i = 0; i < kDraws; ++i) {
        if (i >= begin && i < end) f(i, of_draw(eps[i]));
      }
    }
  }

 private:
  static constexpr bool kHeld = sizeof(T) == sizeof(float);  // in double every bin is a point
  static constexpr int kSlots = kHeld ? kMaxPoints / 32 : 1;

  struct Term {
    T q, log_p, by_mean, by_std, weight;
  };

  T x_, mean_, std_, tau_;
  Bins<T> bins_;
  Bump<T> bump_;
  WithGradient<T> total_;
  NStepWindow<T> window_;
  bool uniform_;
  int lane_;
  T unit_, q_unit_, log_width_;
  Term points_[kSlots], end_;

  __device__ int count() const { return window_.every ? static_cast<int>(window_.length) + 1 : kNodes; }

  __device__ WithGradient<T> inner_bin(T z) const {
    if (uniform_) return {-log(bins_.real_count()), T(0), T(0)};
    return log_inner_bin(z, 2 * unit_, log_width_, std_);
  }
  __device__ T q_at(T distance) const {
    return (origin_of(x_, bins_).to_centre(window_.base) + 2 * distance) * q_unit_;
  }
  __device__ T z_at(T distance) const {
    return (origin_of(mean_, bins_).to_centre(window_.base) + 2 * distance) * unit_;
  }
  __device__ Term point(int i) const {
    const Point<T> at = nstep_point(window_, i);
    const auto p = inner_bin(z_at(at.distance));
    return {q_at(at.distance), p.value, p.by_mean, p.by_std, at.weight};
  }
  // Lane 0 has the first bin of a clipped distribution, lane 1 the last.
  __device__ Term end_bin() const {
    const bool first = lane_ == 0;
    const T edge = first ? T(1) : bins_.last(), bin = first ? T(0) : bins_.last();
    const auto p = log_end_bin(origin_of(mean_, bins_).to_edge(edge) * unit_, first, std_);
    return {origin_of(x_, bins_).to_centre(bin) * q_unit_, p.value, p.by_mean, p.by_std, T(1)};
  }
  __device__ void hold_points() {
    if constexpr (kHeld) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (lane_ + 32 * s < count()) points_[s] = point(lane_ + 32 * s);
      }
    }
    if (bins_.clip) end_ = end_bin();
  }
  template <class F>
  __device__ void each(F&& f) const {
    if constexpr (kHeld) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (lane_ + 32 * s < count()) f(points_[s]);
      }
    } else {
#pragma unroll 1
      for (int i = lane_; i < count(); i += 32) f(point(i));
    }
    if (bins_.clip && lane_ < 2) f(end_);
  }

  __device__ WithGradient<T> of_draw(T eps) const {
    const auto term = [eps](const Term& p) { return p.log_p + p.q * (eps - T(0.5) * p.q); };
    T top = -std::numeric_limits<T>::infinity(), value = 0, by_mean = 0, by_std = 0;
    each([&](const Term& p) { top = term(p) > top ? term(p) : top; });
    top = warp_reduce(top, [](T a, T b) { return b > a ? b : a; });
    each([&](const Term& p) {
      const T e = p.weight * exp(term(p) - top);
      value += e;
      by_mean += e * p.by_mean;
      by_std += e * p.by_std;
    });
    value = warp_sum(value);
    by_mean = warp_sum(by_mean);
    by_std = warp_sum(by_std);
    if (!window_.every && window_.cut_low) add_cut(eps, true, top, value, by_mean, by_std);
    if (!window_.every && window_.cut_high) add_cut(eps, false, top, value, by_mean, by_std);
    const WithGradient<T> share = uniform_ ? WithGradient<T>{T(0), T(0), T(0)} : total_;
    return {top + log(value) - share.value, by_mean / value - share.by_mean, by_std / value - share.by_std};
  }
  __device__ void add_cut(T eps, bool low, T top, T& value, T& by_mean, T& by_std) const {
    const T distance = low ? window_.offset : window_.offset + window_.length;
    const T q = q_at(distance);
    const auto p = inner_bin(z_at(distance));
    const auto w = cut_weight(p.by_mean, q, eps, low, bins_.width(), tau_, bump_);
    const T term = exp(p.value + q * (eps - T(0.5) * q) - top);
    value += term * w.value;
    by_mean += term * (w.value * p.by_mean + w.by_mean);
    by_std += term * (w.value * p.by_std + w.by_std);
  }
};

// Some draws of a variable, as many as registers hold, with their weights.
template <class T>
struct NStepDraws {
  static constexpr int kMost = sizeof(T) == sizeof(double) ? 4 : 8;
  T eps[kMost], weight[kMost];
  int count;

  // Those from `first` on, by a thread that has the variable.
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
  // Another lane's, for all of the warp.
  __device__ NStepDraws of_lane(int v) const {
    NStepDraws there = *this;
#pragma unroll
    for (int i = 0; i < kMost; ++i) there.eps[i] = i < count ? __shfl_sync(kWholeWarp, eps[i], v) : T(0);
    return there;
  }
};

// The losses of a block. The lanes of a warp have a variable each, whose noise they make, and take them one by one
// together. `Variable(op, at)` is what a lane has of its own; the v-th lane's takes draws by `add(v, draws, first)`,
// which all lanes call, and `finish(counts)` is its loss.
template <class T, class Variable>
__device__ void nstep_losses(const DiscretisedLoss& op, const Nodes<T>& nodes, const Chunks& chunks) {
  const int lane = threadIdx.x % 32, all = static_cast<int>(op.draws.count());
  const Range range = range_of(chunks);
  double sum = 0;
  int32_t kept = 0;
#pragma unroll 1
  for (int64_t start = range.begin + threadIdx.x / 32 * 32; start < range.end; start += blockDim.x) {
    const bool there = start + lane < range.end;
    const General<T> at{there ? start + lane : start, 0};
    const bool counts = there && read<int>(op.to.mask, at.start, 1) != 0;
    Variable variable(op, at);
#pragma unroll 1
    for (int draw = 0; draw < all; draw += NStepDraws<T>::kMost) {
      const NStepDraws<T> own(op, nodes, at, draw, all);
#pragma unroll 1
      for (int v = 0; v < 32; ++v) {
        if (__shfl_sync(kWholeWarp, static_cast<int>(counts), v)) variable.add(v, own.of_lane(v), draw == 0);
      }
    }
    if (!there) continue;
    const T loss[1] = {variable.finish(counts)};
    if (op.to.reduction == Reduction::kNone) at.store_own(op.to.loss, loss);
    sum += loss[0];
    kept += counts;
  }
  finish_block<T>(op.to, chunks, sum, kept);
}

}  // namespace bfn
