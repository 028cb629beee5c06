// The losses L_inf and -ln p of discretised data. Each thread works on a pack of variables (access.h).
// Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "../math/bin_prob.h"
#include "../ops/discretised.h"
#include "expected_value.h"
#include "loss.h"

namespace bfn {

// The normals of the network's output for a pack of variables.
template <class T, int kCount>
struct Normals {
  T mean[kCount], std[kCount], mean_by_prediction[kCount], std_by_log_std[kCount];

  template <class At>
  __device__ Normals(const At& at, const NetworkOutput& from) {
    T prediction[kCount], log_std[kCount], state[kCount], mean_scale[kCount], noise_scale[kCount];
    const OutputLimits<T> limits = from.limits.as<T>();
    at.network(from.prediction, prediction);
    at.network(from.log_std, log_std);
    at.data(from.mean, state);
    at.rows(from.mean_scale, mean_scale);
    at.rows(from.noise_scale, noise_scale);
    const auto read = [&](auto kind) {  // `kind` is a compile-time constant, so that the loop has no branch
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const OutputNormal<T> normal = output_normal(decltype(kind)::value, limits, prediction[j], log_std[j], state[j],
                                                     mean_scale[j], noise_scale[j]);
        mean[j] = normal.mean;
        std[j] = normal.std;
        mean_by_prediction[j] = normal.mean_by_prediction;
        std_by_log_std[j] = normal.std_by_log_std;
      }
    };
    using P = Parametrisation;
    if (from.kind == P::kDirect) read(std::integral_constant<P, P::kDirect>{});
    if (from.kind == P::kData) read(std::integral_constant<P, P::kData>{});
    if (from.kind == P::kNoise) read(std::integral_constant<P, P::kNoise>{});
  }

  // Turns the derivatives by mean and std into derivatives by the predictions, and stores them.
  template <class At>
  __device__ void store_gradients(const At& at, const NetworkGradients& to, T (&by_mean)[kCount],
                                  T (&by_std)[kCount]) const {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      by_mean[j] *= mean_by_prediction[j];
      by_std[j] *= std_by_log_std[j];
    }
    if (to.grad_prediction) at.store_compute(to.grad_prediction, by_mean);
    if (to.grad_log_std) at.store_compute(to.grad_log_std, by_std);
  }
};

// The layout of a network's output.
inline Layout layout_of(const NetworkOutput& from) {
  return Layout()
      .network(from.prediction)
      .network(from.log_std)
      .network(from.mixture_logits)
      .data(from.mean)
      .rows(from.mean_scale)
      .rows(from.noise_scale);
}

// L_inf (101), or -ln p of the bin of x (107-109).
template <class At, bool kSquared>
__global__ void __launch_bounds__(kThreads, At::kCount == 4 && !kSquared ? 3 : 2)
    loss_kernel(const __grid_constant__ DiscretisedLoss op, const __grid_constant__ RowMap rows, const Chunks chunks) {
  using T = typename At::Compute;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  const auto losses = [&](auto at, bool active, const auto& on, auto& loss) {
    constexpr int kCount = decltype(at)::kCount;
    Normals<T, kCount> normals(at, op.from);
    T x[kCount], by_mean[kCount], by_std[kCount];
    at.data(op.x, x);
    if constexpr (kSquared) {
      T weight[kCount];
      ExpectedValue<T> k[kCount];
      at.rows(op.weight, weight);
      expected_values(normals.mean, normals.std, bins, k);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const SquaredError<T> cost(weight[j], k[j].error(x[j]));
        loss[j] = cost.loss;
        by_mean[j] = cost.slope * k[j].by_mean;
        by_std[j] = cost.slope * k[j].by_std;
      }
    } else {
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const auto p = log_bin_prob(bins.index(x[j]), normals.mean[j], normals.std[j], bins);
        loss[j] = -p.value;
        by_mean[j] = -p.by_mean;
        by_std[j] = -p.by_std;
      }
    }
    if (!active) return;
    if (op.to.mask) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        if (on[j]) continue;  // if the mask is 0, the gradient is 0, even if it was computed as NaN
        by_mean[j] = by_std[j] = normals.mean_by_prediction[j] = normals.std_by_log_std[j] = 0;
      }
    }
    normals.store_gradients(at, op.gradients, by_mean, by_std);
  };
  if constexpr (kSquared) {
    reduce_losses_in_rounds<At>(op.to, chunks, rows, losses);
  } else {
    reduce_losses<At>(op.to, chunks, rows, [&](auto at, const auto& on, auto& loss) { losses(at, true, on, loss); });
  }
}

}  // namespace bfn
