// The discretised n-step losses of a block of variables, and their gradients.
#pragma once

#include <cstring>
#include <vector>

#include "loss.h"
#include "network.h"
#include "noise.h"
#include "nstep.h"

namespace bfn {
namespace {

// L_n (113-119). A thread uses one object for all its blocks.
template <class T>
class NStep {
 public:
  explicit NStep(const DiscretisedLoss& loss)
      : op(loss),
        draws(loss.draws.count()),
        weights(draws),
        normals(loss.draws.n_samples * noise_buffer_size(kBlock)),
        sums(loss.from.mixture_logits ? 3 * draws * kBlock : 0),
        sum({loss.from.num_bins, loss.from.clip}, draws) {
    for (int64_t d = 0; d < draws; ++d) weights[d] = weight_of<T>(op.draws, d);
    if (!op.draws.n_samples) set_nodes();
  }

  void operator()(const NetworkBlock<T>& from, const T* x, int64_t start, const uint8_t* mask, T* loss,
                  GradientBlock<T>& by) {
    T alpha_buffer[kBlock], tau[kBlock];
    const T* alpha = load(op.alpha, start, from.length, alpha_buffer);
    for (int64_t i = 0; i < from.length; ++i) tau[i] = 1 / sqrt(alpha[i]);
    draw(start, from.length);
    // The places of the normals of all variables whose losses count. kLanes of these normals are summed at a time.
    int32_t places[kBlock + kLanes];
    int64_t count = 0;
    for (int64_t i = 0; i < from.length; ++i) {
      if (mask && !mask[i]) continue;
      for (int64_t m = i * from.components; m < (i + 1) * from.components; ++m) places[count++] = m;
    }
    if (!from.mixed && count > kLanes) sort_by_window(from, x, tau, places, count);
    std::fill_n(places + count, kLanes, count ? places[count - 1] : 0);
    for (int64_t first = 0; first < count; first += kLanes) {
      sum_lanes(from, x, tau, places + first);
      if (from.mixed) {
        store_sums(places + first);
      } else {
        expect_lanes(places + first, loss, by);
      }
    }
    for (int64_t i = 0; from.mixed && i < from.length; ++i) {
      if (!mask || mask[i]) loss[i] = expect(from, i * from.components, by);
    }
  }

 private:
  static constexpr int kMostPoints = 63, kKeys = 8 * (kMostPoints + 1);

  const DiscretisedLoss& op;
  int64_t draws;
  std::vector<T> weights, normals;
  // Of mixtures: ln of the sum of every normal of a block in every draw, and its derivatives by mean and std.
  std::vector<T> sums;
  NStepSum<T> sum;
  T least[kBlock], most[kBlock];  // for each variable, the eps between which windows are made

  WithGradient<T> sum_at(int64_t d, int64_t place) const {
    const T* of_draw = sums.data() + 3 * d * kBlock + place;
    return {of_draw[0], of_draw[kBlock], of_draw[2 * kBlock]};
  }

  // Sets the nodes of a quadrature as the draws. The sum of a node counts times the node's weight w, so a light node
  // needs less of its bump: the part within r of the peak, in units of s, where w exp(-r^2/2) = exp(-kReach^2/2).
  void set_nodes() {
    double reach = 0;
    for (int64_t d = 0; d < draws; ++d) {
      const double node = op.draws.nodes[d], rest = square(kReach) + 2 * std::log(op.draws.node_weights[d]);
      std::fill_n(&sum.eps[d * kLanes], kLanes, static_cast<T>(node));
      reach = std::max(reach, node + std::sqrt(std::max(rest, 0.0)) - kReach);
    }
    std::fill_n(least, kBlock, static_cast<T>(-reach));
    std::fill_n(most, kBlock, static_cast<T>(reach));
  }

  // Sorts the places of variables by their windows. Lanes that are summed together take as many points as the longest
  // of their windows, a correction at a cut if one of them has this cut, and wide bins if one of them has wide bins.
  void sort_by_window(const NetworkBlock<T>& from, const T* x, const T* tau, int32_t* places, int64_t count) const {
    T key[kBlock];
    if (from.bins.clip) {
      set_keys<true>(from, x, tau, key);
    } else {
      set_keys<false>(from, x, tau, key);
    }
    int32_t next[kKeys + 1] = {}, sorted[kBlock];
    const auto key_of = [&](int32_t place) { return static_cast<int>(key[place]); };
    for (int64_t i = 0; i < count; ++i) ++next[key_of(places[i]) + 1];
    for (int k = 0; k < kKeys; ++k) next[k + 1] += next[k];
    for (int64_t i = 0; i < count; ++i) sorted[next[key_of(places[i])]++] = places[i];
    std::copy_n(sorted, count, places);
  }

  // A key has a bit for each cut, a bit for wide bins, and the number of a window's points, at most kMostPoints.
  // The key falls with the number of points if there is no low cut, and rises if there is one. So variables with
  // different bits that become neighbours have similar numbers of points.
  template <bool kClip>
  [[gnu::noinline]] void set_keys(const NetworkBlock<T>& from, const T* x, const T* tau, T* __restrict key) const {
    const Bins<T> bins{from.bins.count, kClip};
    const NStepOrigin<T> first{};
    for (int64_t i = 0; i < from.length; ++i) {
      const NStepNormal<T> normal(x[i], from.mean[i], from.std[i], tau[i], bins);
      const NStepWindow<T> window = normal.window(first, least[i], most[i]);
      const T wide = normal.terms.narrow(first, window) ? T(0) : T(1);
      const T bits = window.cut_low + 2 * window.cut_high + 4 * wide;
      const T points = smaller(window.count, T(kMostPoints));
      key[i] = (window.cut_low > T(0) ? points : kMostPoints - points) + (kMostPoints + 1) * bits;
    }
  }

  // Computes the sums of the normals at these places.
  void sum_lanes(const NetworkBlock<T>& from, const T* x, const T* tau, const int32_t* places) {
    NStepInputs<T> in;
    for (int64_t j = 0; j < kLanes; ++j) {
      const int64_t place = places[j], i = from.mixed ? place / from.components : place;
      in.x[j] = x[i];
      in.mean[j] = from.mean[place];
      in.std[j] = from.std[place];
      in.tau[j] = tau[i];
      in.least[j] = least[i];
      in.most[j] = most[i];
      for (int64_t d = 0; d < op.draws.n_samples; ++d) {
        sum.eps[d * kLanes + j] = normals[d * noise_buffer_size(kBlock) + i];
      }
    }
    sum(in);
  }

  void store_sums(const int32_t* places) {
    for (int64_t d = 0; d < draws; ++d) {
      T* of_draw = sums.data() + 3 * d * kBlock;
      for (int64_t j = 0; j < kLanes; ++j) {
        const auto of_lane = sum.draws[d].at(j);
        of_draw[places[j]] = of_lane.value;
        of_draw[places[j] + kBlock] = of_lane.by_mean;
        of_draw[places[j] + 2 * kBlock] = of_lane.by_std;
      }
    }
  }

  // Stores the losses of variables, the expectations over their draws, and their gradients. Unrolled, the short loop
  // would not be vectorised.
  void expect_lanes(const int32_t* places, T* loss, GradientBlock<T>& by) const {
    const T n = static_cast<T>(op.n_steps);
    Lanes<T> value{}, by_mean{}, by_std{};
    for (int64_t d = 0; d < draws; ++d) {
      const T weight = -n * weights[d];
      const DrawLanes<T>& of_draw = sum.draws[d];
#pragma GCC unroll 1
      for (int64_t j = 0; j < kLanes; ++j) {
        value[j] += weight * of_draw.value[j];
        by_mean[j] += weight * of_draw.by_mean[j];
        by_std[j] += weight * of_draw.by_std[j];
      }
    }
    for (int64_t j = 0; j < kLanes; ++j) {
      loss[places[j]] = value[j];
      by.by_mean[places[j]] = by_mean[j];
      by.by_std[places[j]] = by_std[j];
    }
  }

  // Returns the loss of a mixture, the expectation over its draws, and writes its gradient. The sum over bins is linear
  // in p. So the sum of a mixture is the sum over its components, times their shares.
  T expect(const NetworkBlock<T>& from, int64_t first, GradientBlock<T>& by) {
    const T n = static_cast<T>(op.n_steps);
    std::fill_n(by.by_mean + first, from.components, T(0));
    std::fill_n(by.by_std + first, from.components, T(0));
    std::fill_n(by.by_logit + first, from.components, T(0));
    T value = 0, terms[kBlock], e[kBlock];
    for (int64_t d = 0; d < draws; ++d) {
      const T weight = -n * weights[d];
      for (int64_t m = 0; m < from.components; ++m) terms[m] = from.log_share[first + m] + sum_at(d, first + m).value;
      const LogSum<T> total = log_sum(terms, from.components, e);
      value += weight * total.value();
      for (int64_t m = 0; m < from.components; ++m) {
        by.add(first + m, log_sum_gradient(weight, e[m] / total.sum, from.share[first + m], sum_at(d, first + m)));
      }
    }
    return value;
  }

  // Makes the normals of all draws for the variables of a block, and finds the range of each variable's normals.
  void draw(int64_t start, int64_t length) {
    const int64_t all = op.to.batch * op.to.per_batch;
    for (int64_t d = 0; d < op.draws.n_samples; ++d) {
      T* buffer = normals.data() + d * noise_buffer_size(kBlock);
      const T* from = normals_of(op.draws.noise, start, length, buffer, static_cast<uint32_t>(d), all);
      std::memmove(buffer, from, length * sizeof(T));
      for (int64_t i = 0; i < length; ++i) {
        least[i] = d ? smaller(buffer[i], least[i]) : buffer[i];
        most[i] = d ? larger(buffer[i], most[i]) : buffer[i];
      }
    }
  }
};

}  // namespace
}  // namespace bfn
