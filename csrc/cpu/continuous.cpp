#include "../ops/continuous.h"

#include "../math/continuous.h"
#include "loss.h"
#include "noise.h"

namespace bfn {
namespace {

template <class T>
struct PredictionBlock {
  T buffers[4][kBlock];
  const T *prediction, *mean, *mean_scale, *noise_scale;
  T low, high;

  void read(const Prediction& from, int64_t start, int64_t length) {
    prediction = load(from.prediction, start, length, buffers[0]);
    mean = load(from.mean, start, length, buffers[1]);
    mean_scale = load(from.mean_scale, start, length, buffers[2]);
    noise_scale = load(from.noise_scale, start, length, buffers[3], T(-1));
    low = static_cast<T>(from.low);
    high = static_cast<T>(from.high);
  }
  T x_hat(int64_t i) const { return predict(prediction[i], mean[i], mean_scale[i], noise_scale[i]); }
};

}  // namespace

template <class T>
void gaussian_step(const GaussianStep& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[6][kBlock], normals[noise_room(kBlock)];
    const Ahead<T> ahead({&op.state, &op.data, &op.out}, start);
    const T* eps = op.noise_scale ? normals_of(op.noise, start, length, normals, 0, 0, ahead) : nullptr;
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
    PredictionBlock<T> from;
    T buffers[5][kBlock], sent[kBlock], normals[noise_room(kBlock)];
    const Ahead<T> ahead({&op.from.prediction, &op.from.mean, &op.out}, start);
    const T* eps = normals_of(op.noise, start, length, normals, 0, 0, ahead);
    from.read(op.from, start, length);
    for (int64_t i = 0; i < length; ++i) sent[i] = clamp(from.x_hat(i), from.low, from.high);
    if (op.known) {
      uint8_t mask_buffer[kBlock];
      const T* known = load(op.known, start, length, buffers[0]);
      const uint8_t* mask = load(op.known_mask, start, length, mask_buffer);
      for (int64_t i = 0; i < length; ++i) sent[i] = mask[i] ? known[i] : sent[i];
    }
    const T* keep = load(op.keep, start, length, buffers[1]);
    const T* take = load(op.take, start, length, buffers[2]);
    const T* noise_scale = load(op.noise_scale, start, length, buffers[3]);
    T* out = target(op.out, start, buffers[4]);
    for (int64_t i = 0; i < length; ++i) {
      out[i] = updated_mean(keep[i], from.mean[i], take[i], sent[i], noise_scale[i], eps[i]);
    }
    store(op.out, start, length, out);
  });
}

template <class T>
void predict_data(const PredictData& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    PredictionBlock<T> from;
    T buffer[kBlock];
    from.read(op.from, start, length);
    T* out = target(op.out, start, buffer);
    for (int64_t i = 0; i < length; ++i) out[i] = clamp(from.x_hat(i), from.low, from.high);
    store(op.out, start, length, out);
  });
}

template <class T>
void predict_data_backward(const PredictDataBackward& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    PredictionBlock<T> from;
    T buffers[3][kBlock];
    from.read(op.from, start, length);
    const T* grad = load(op.grad, start, length, buffers[0]);
    for (int64_t i = 0; i < length; ++i) {
      const auto by =
          prediction_gradient(grad[i], from.x_hat(i), from.mean_scale[i], from.noise_scale[i], from.low, from.high);
      buffers[1][i] = by.grad_prediction;
      buffers[2][i] = by.grad_mean;
    }
    if (op.grad_prediction) store(op.grad_prediction, start, length, buffers[1]);
    if (op.grad_mean) store(op.grad_mean, start, length, buffers[2]);
  });
}

template <class T>
void squared_loss(const SquaredLoss& op) {
  RangeOfData<T> range(op.from.low, op.from.high);
  reduce_losses<T>(op.to, 1, [&](int64_t start, int64_t length, const uint8_t* mask, T* loss) {
    PredictionBlock<T> from;
    T buffers[3][kBlock];
    from.read(op.from, start, length);
    const T* x = load(op.x, start, length, buffers[0]);
    range.check(x, length, mask);
    const T* weight = load(op.weight, start, length, buffers[1]);
    const T* offset = load(op.offset, start, length, buffers[2]);
    for (int64_t i = 0; i < length; ++i) {
      loss[i] = squared_loss(x[i], from.x_hat(i), weight[i], offset[i], from.low, from.high);
    }
  });
  range.refuse();
}

template <class T>
void squared_loss_backward(const SquaredLossBackward& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    PredictionBlock<T> from;
    T buffers[6][kBlock];
    uint8_t mask_buffer[kBlock];
    from.read(op.from, start, length);
    const T* grad = load(op.grad, start, length, buffers[0]);
    const T* x = load(op.x, start, length, buffers[1]);
    const T* weight = load(op.weight, start, length, buffers[2]);
    const uint8_t* mask = load(op.mask, start, length, mask_buffer, uint8_t{1});
    for (int64_t i = 0; i < length; ++i) {
      const auto by = squared_loss_gradient(x[i], from.x_hat(i), weight[i], from.mean_scale[i], from.noise_scale[i],
                                            from.low, from.high);
      buffers[3][i] = mask[i] ? grad[i] * by.grad_x : T(0);
      buffers[4][i] = mask[i] ? grad[i] * by.grad_prediction : T(0);
      buffers[5][i] = mask[i] ? grad[i] * by.grad_mean : T(0);
    }
    if (op.grad_x) store(op.grad_x, start, length, buffers[3]);
    if (op.grad_prediction) store(op.grad_prediction, start, length, buffers[4]);
    if (op.grad_mean) store(op.grad_mean, start, length, buffers[5]);
  });
}

BFN_INSTANTIATE(gaussian_step, const GaussianStep&);
BFN_INSTANTIATE(continuous_update, const ContinuousUpdate&);
BFN_INSTANTIATE(predict_data, const PredictData&);
BFN_INSTANTIATE(predict_data_backward, const PredictDataBackward&);
BFN_INSTANTIATE(squared_loss, const SquaredLoss&);
BFN_INSTANTIATE(squared_loss_backward, const SquaredLossBackward&);

}  // namespace bfn
