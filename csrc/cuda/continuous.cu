#include "../ops/continuous.h"

#include "../math/continuous.h"
#include "access.h"
#include "solver.h"

namespace bfn {
namespace {

template <class At, bool kNoise>
__global__ void __launch_bounds__(kThreads, 2)
    gaussian_step_kernel(const __grid_constant__ GaussianStep op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const int64_t seed = kNoise ? seed_of(op.noise) : 0;
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    T state[kCount], data[kCount], state_scale[kCount], data_scale[kCount], out[kCount];
    at.data(op.state, state);
    at.data(op.data, data);
    at.rows(op.state_scale, state_scale, T(1));
    at.rows(op.data_scale, data_scale);
#pragma unroll
    for (int j = 0; j < kCount; ++j) out[j] = state_scale[j] * state[j];
    if (op.data) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) out[j] = fused(data_scale[j], data[j], out[j]);
    }
    if constexpr (kNoise) {
      T noise_scale[kCount], eps[kCount];
      at.rows(op.noise_scale, noise_scale);
      at.noise(op.noise, seed, eps);
#pragma unroll
      for (int j = 0; j < kCount; ++j) out[j] = fused(noise_scale[j], eps[j], out[j]);
    }
    at.store_data(op.out, out);
  });
}

template <class T>
struct Interval {
  T low, high;
  explicit Interval(const Prediction& from) : low(static_cast<T>(from.low)), high(static_cast<T>(from.high)) {}
};

// x_hat before it is clipped (equation 84 of the paper), and the mean and the scales from which it was computed.
template <class T, int kCount>
struct DataPrediction {
  T x_hat[kCount], mean[kCount], mean_scale[kCount], noise_scale[kCount];

  template <class At>
  __device__ DataPrediction(const At& at, const Prediction& from) {
    T prediction[kCount];
    at.network(from.prediction, prediction);
    at.data(from.mean, mean);
    at.rows(from.mean_scale, mean_scale);
    at.rows(from.noise_scale, noise_scale, T(-1));
#pragma unroll
    for (int j = 0; j < kCount; ++j) x_hat[j] = predict(prediction[j], mean[j], mean_scale[j], noise_scale[j]);
  }
};

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const __grid_constant__ ContinuousUpdate op, const __grid_constant__ RowMap rows,
                  const Interval<typename At::Compute> clip) {
  using T = typename At::Compute;
  const int64_t seed = seed_of(op.noise);
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    DataPrediction<T, kCount> from(at, op.from);
    T keep[kCount], take[kCount], noise_scale[kCount], eps[kCount] = {};
#pragma unroll
    for (int j = 0; j < kCount; ++j) from.x_hat[j] = clamp(from.x_hat[j], clip.low, clip.high);
    replace_known(at, op.known, op.known_mask, from.x_hat);
    if (op.solver.predicts) extrapolate(at, op.solver, from.x_hat);
    at.rows(op.solver.keep, keep, T(1));
    at.rows(op.solver.take, take);
    at.rows(op.solver.std, noise_scale);
    if (op.noise.any()) at.noise(op.noise, seed, eps);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      from.x_hat[j] = updated_mean(keep[j], from.mean[j], take[j], from.x_hat[j], noise_scale[j], eps[j]);
    }
    at.store_data(op.out, from.x_hat);
  });
}

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    predict_data_kernel(const __grid_constant__ PredictData op, const __grid_constant__ RowMap rows,
                        const Interval<typename At::Compute> clip) {
  using T = typename At::Compute;
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    DataPrediction<T, kCount> from(at, op.from);
#pragma unroll
    for (int j = 0; j < kCount; ++j) from.x_hat[j] = clamp(from.x_hat[j], clip.low, clip.high);
    at.store_network(op.out, from.x_hat);
  });
}

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    predict_data_backward_kernel(const __grid_constant__ PredictDataBackward op, const __grid_constant__ RowMap rows,
                                 const Interval<typename At::Compute> clip) {
  using T = typename At::Compute;
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    const DataPrediction<T, kCount> from(at, op.from);
    T grad[kCount], grad_prediction[kCount], grad_mean[kCount];
    at.network(op.grad, grad);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const auto by =
          prediction_gradient(grad[j], from.x_hat[j], from.mean_scale[j], from.noise_scale[j], clip.low, clip.high);
      grad_prediction[j] = by.grad_prediction;
      grad_mean[j] = by.grad_mean;
    }
    if (op.grad_prediction) at.store_network(op.grad_prediction, grad_prediction);
    if (op.grad_mean) at.store_data(op.grad_mean, grad_mean);
  });
}

Layout layout_of(const Prediction& from) {
  return Layout().network(from.prediction).data(from.mean).rows(from.mean_scale).rows(from.noise_scale);
}

}  // namespace

template <class T>
void gaussian_step(const GaussianStep& op) {
  const Layout layout = Layout()
                            .data(op.state)
                            .data(op.data)
                            .data(op.out)
                            .rows(op.state_scale)
                            .rows(op.data_scale)
                            .rows(op.noise_scale)
                            .noise(op.noise);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(op.noise_scale ? &gaussian_step_kernel<At, true> : &gaussian_step_kernel<At, false>, grid_for<At>(op.count),
           kThreads, op, layout.row_map());
  });
}

template <class T>
void continuous_update(const ContinuousUpdate& op) {
  Layout layout = layout_of(op.from).data(op.known).data(op.out).bytes(op.known_mask).noise(op.noise);
  with_solver(layout, op.solver);
  with_network_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&update_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map(), Interval<T>(op.from));
  });
}

template <class T>
void predict_data(const PredictData& op) {
  const Layout layout = layout_of(op.from).network(op.out);
  with_network_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&predict_data_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map(), Interval<T>(op.from));
  });
}

template <class T>
void predict_data_backward(const PredictDataBackward& op) {
  const Layout layout = layout_of(op.from).network(op.grad).network(op.grad_prediction).data(op.grad_mean);
  with_network_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&predict_data_backward_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map(),
           Interval<T>(op.from));
  });
}

BFN_INSTANTIATE(gaussian_step, const GaussianStep&);
BFN_INSTANTIATE(continuous_update, const ContinuousUpdate&);
BFN_INSTANTIATE(predict_data, const PredictData&);
BFN_INSTANTIATE(predict_data_backward, const PredictDataBackward&);

}  // namespace bfn
