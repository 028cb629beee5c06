#include "../ops/continuous.h"

#include "../math/continuous.h"
#include "noise.h"
#include "solver.h"

namespace bfn {
namespace {

// The predictions of a block if the network predicts the noise or, without scales, the data. The function x_hat turns
// them into data (equation 84 of the paper).
template <class T>
struct NoisePrediction {
  T buffers[4][kBlock];
  const T *prediction, *mean, *mean_scales, *noise_scales;
  T low, high;

  NoisePrediction(const Prediction& from, int64_t start, int64_t length)
      : prediction(load(from.prediction, start, length, buffers[0])),
        mean(load(from.mean, start, length, buffers[1])),
        mean_scales(load(from.mean_scale, start, length, buffers[2])),
        noise_scales(load(from.noise_scale, start, length, buffers[3], T(-1))),
        low(static_cast<T>(from.low)),
        high(static_cast<T>(from.high)) {}
  T x_hat(int64_t i) const { return predict(prediction[i], mean[i], mean_scales[i], noise_scales[i]); }
};

// The same without scales, and faster.
template <class T>
struct DataPrediction {
  T buffer[kBlock];
  const T* prediction;
  T low, high;

  DataPrediction(const Prediction& from, int64_t start, int64_t length)
      : prediction(load(from.prediction, start, length, buffer)),
        low(static_cast<T>(from.low)),
        high(static_cast<T>(from.high)) {}
  T x_hat(int64_t i) const { return prediction[i]; }
};

// Reads the predictions of a block, and calls f with them as a NoisePrediction or a DataPrediction.
template <class T, class F>
void with_prediction(const Prediction& from, int64_t start, int64_t length, F&& f) {
  if (from.mean_scale || from.noise_scale) {
    f(NoisePrediction<T>(from, start, length));
  } else {
    f(DataPrediction<T>(from, start, length));
  }
}

}  // namespace

template <class T>
void gaussian_step(const GaussianStep& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[6][kBlock], normals[noise_buffer_size(kBlock)];
    const Prefetch<T> prefetch({&op.state, &op.data, &op.out}, start);
    const T* eps = op.noise_scale ? normals_of(op.noise, start, length, normals, 0, 0, prefetch) : nullptr;
    const T* state = load(op.state, start, length, buffers[0]);
    const T* state_scale = load(op.state_scale, start, length, buffers[1], T(1));
    T* out = target(op.out, start, buffers[5]);
    if (op.data) {
      const T* data = load(op.data, start, length, buffers[2]);
      const T* data_scale = load(op.data_scale, start, length, buffers[3]);
      for (int64_t i = 0; i < length; ++i) out[i] = state_scale[i] * state[i] + data_scale[i] * data[i];
    } else {
      for (int64_t i = 0; i < length; ++i) out[i] = state_scale[i] * state[i];
    }
    if (op.noise_scale) {
      const T* noise_scale = load(op.noise_scale, start, length, buffers[4]);
      for (int64_t i = 0; i < length; ++i) out[i] += noise_scale[i] * eps[i];
    }
    store(op.out, start, length, out);
  });
}

template <class T>
void continuous_update(const ContinuousUpdate& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[6][kBlock], sent[kBlock], normals[noise_buffer_size(kBlock)];
    const Prefetch<T> prefetch({&op.from.prediction, &op.from.mean, &op.out}, start);
    const T* eps = normals_or_zeros(op.noise, start, length, normals, prefetch);
    with_prediction<T>(op.from, start, length, [&](const auto& from) {
      for (int64_t i = 0; i < length; ++i) sent[i] = clamp(from.x_hat(i), from.low, from.high);
    });
    if (op.known) overwrite(op.known_mask, start, length, load(op.known, start, length, buffers[0]), sent);
    if (op.solver.predicts) extrapolate(op.solver, start, length, sent);
    const T* keep = load(op.solver.keep, start, length, buffers[1], T(1));
    const T* take = load(op.solver.take, start, length, buffers[2]);
    const T* noise_scale = load(op.solver.std, start, length, buffers[3]);
    const T* mean = load(op.from.mean, start, length, buffers[4]);
    T* out = target(op.out, start, buffers[5]);
    for (int64_t i = 0; i < length; ++i) {
      out[i] = updated_mean(keep[i], mean[i], take[i], sent[i], noise_scale[i], eps[i]);
    }
    store(op.out, start, length, out);
  });
}

template <class T>
void predict_data(const PredictData& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffer[kBlock];
    T* out = target(op.out, start, buffer);
    const NoisePrediction<T> from(op.from, start, length);
    for (int64_t i = 0; i < length; ++i) out[i] = clamp(from.x_hat(i), from.low, from.high);
    store(op.out, start, length, out);
  });
}

template <class T>
void predict_data_backward(const PredictDataBackward& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[3][kBlock];
    const T* grad = load(op.grad, start, length, buffers[0]);
    const NoisePrediction<T> from(op.from, start, length);
    for (int64_t i = 0; i < length; ++i) {
      const auto by =
          prediction_gradient(grad[i], from.x_hat(i), from.mean_scales[i], from.noise_scales[i], from.low, from.high);
      buffers[1][i] = by.grad_prediction;
      buffers[2][i] = by.grad_mean;
    }
    if (op.grad_prediction) store(op.grad_prediction, start, length, buffers[1]);
    if (op.grad_mean) store(op.grad_mean, start, length, buffers[2]);
  });
}

BFN_INSTANTIATE(gaussian_step, const GaussianStep&);
BFN_INSTANTIATE(continuous_update, const ContinuousUpdate&);
BFN_INSTANTIATE(predict_data, const PredictData&);
BFN_INSTANTIATE(predict_data_backward, const PredictDataBackward&);

}  // namespace bfn
