#include "discretised.h"

#include "../math/nstep.h"

namespace bfn {
namespace {

template <class T>
struct NetworkBlock {
  T buffers[5][kBlock];
  const T *prediction, *log_std, *mean, *a, *b;
  Parametrisation kind;
  Bins<T> bins;

  void read(const NetworkOutput& from, int64_t start, int64_t length) {
    prediction = load(from.prediction, start, length, buffers[0]);
    log_std = load(from.log_std, start, length, buffers[1]);
    mean = load(from.mean, start, length, buffers[2]);
    a = load(from.a, start, length, buffers[3]);
    b = load(from.b, start, length, buffers[4]);
    kind = from.kind;
    bins = {from.num_bins, from.clip};
  }
  OutputNormal<T> normal(int64_t i) const {
    return output_normal(kind, prediction[i], log_std[i], mean[i], a[i], b[i]);
  }
};

template <class T>
struct GradientBlock {
  T by_prediction[kBlock], by_log_std[kBlock];

  // The chain rule from the normal to the predictions.
  void set(int64_t i, const OutputNormal<T>& normal, T by_mean, T by_std) {
    by_prediction[i] = by_mean * normal.mean_by_prediction;
    by_log_std[i] = by_std * normal.std_by_log_std;
  }
  void write(const LossGradients& to, int64_t start, int64_t length) const {
    if (to.by_prediction) store(to.by_prediction, start, length, by_prediction);
    if (to.by_log_std) store(to.by_log_std, start, length, by_log_std);
  }
};

template <class T>
void choose_block(const NetworkBlock<T>& from, Choice choice, const T* eps, int64_t length, T* out) {
  for (int64_t i = 0; i < length; ++i) {
    const auto normal = from.normal(i);
    if (choice == Choice::kMean) {
      out[i] = static_cast<T>(expected_value(normal.mean, normal.std, from.bins).value);
    } else if (choice == Choice::kMode) {
      out[i] = mode(normal.mean, normal.std, from.bins);
    } else {
      out[i] = from.bins.centre(from.bins.index(clamp(normal.mean + normal.std * eps[i], T(-1), T(1))));
    }
  }
}

// Sums of an n-step loss over one variable at a time; the scratch is shared by the variables of a block.
template <class T>
struct NStep {
  const DiscretisedLoss& op;
  int64_t count;
  std::vector<T> eps, weights, scratch, normals;
  const T* alpha;
  T alpha_buffer[kBlock];

  explicit NStep(const DiscretisedLoss& loss)
      : op(loss),
        count(loss.n_samples ? loss.n_samples : loss.num_nodes),
        eps(count),
        weights(count),
        scratch(2 * loss.from.num_bins),
        normals(loss.n_samples ? count * Noise::room(kBlock) : 0) {
    for (int64_t i = 0; i < count; ++i) {
      eps[i] = op.n_samples ? T(0) : static_cast<T>(op.nodes[i]);
      weights[i] = op.n_samples ? T(1) / static_cast<T>(count) : static_cast<T>(op.node_weights[i]);
    }
  }
  void read(int64_t start, int64_t length) {
    alpha = load(op.alpha, start, length, alpha_buffer);
    const int64_t all = op.to.batch * op.to.per_batch;
    for (int64_t draw = 0; draw < op.n_samples; ++draw) {
      T* buffer = normals.data() + draw * Noise::room(kBlock);
      const T* from = op.noise.normals(start, length, buffer, static_cast<uint32_t>(draw), all);
      std::memmove(buffer, from, length * sizeof(T));
    }
  }
  WithGradient<T> operator()(int64_t i, T x, const OutputNormal<T>& normal, Bins<T> bins) {
    for (int64_t draw = 0; draw < op.n_samples; ++draw) eps[draw] = normals[draw * Noise::room(kBlock) + i];
    const T n = static_cast<T>(op.n_steps);
    const auto d = discrete_time_divergence(x, normal.mean, normal.std, 1 / sqrt(alpha[i]), bins, eps.data(),
                                            weights.data(), count, scratch.data(), scratch.data() + bins.count);
    return {n * d.value, n * d.by_mean, n * d.by_std};
  }
};

template <class T>
WithGradient<T> squared_error(T x, T weight, const OutputNormal<T>& normal, Bins<T> bins) {
  const auto k = expected_value(normal.mean, normal.std, bins);
  const double error = x - k.value, slope = -2 * weight * error;
  return {static_cast<T>(weight * error * error), static_cast<T>(slope * k.by_mean), static_cast<T>(slope * k.by_std)};
}

template <class T>
WithGradient<T> bin_cost(T x, const OutputNormal<T>& normal, Bins<T> bins) {
  const auto p = log_bin_prob(bins.index(x), normal.mean, normal.std, bins);
  return {-p.value, -p.by_mean, -p.by_std};
}

// Reads a block, has `cost` say what each variable costs, and writes the losses and gradients.
template <class T, class F>
void loss_block(const DiscretisedLoss& op, int64_t start, int64_t length, const uint8_t* mask, T* loss, F&& cost) {
  NetworkBlock<T> from;
  GradientBlock<T> gradients;
  T buffer[kBlock];
  from.read(op.from, start, length);
  const T* x = load(op.x, start, length, buffer);
  for (int64_t i = 0; i < length; ++i) {
    if (mask && !mask[i]) {
      gradients.by_prediction[i] = gradients.by_log_std[i] = 0;
      continue;
    }
    const auto normal = from.normal(i);
    const WithGradient<T> c = cost(i, x[i], normal, from.bins);
    loss[i] = c.value;
    gradients.set(i, normal, c.by_mean, c.by_std);
  }
  gradients.write(op.gradients, start, length);
}

}  // namespace

template <class T>
void expected_value(const ExpectedValue& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    NetworkBlock<T> from;
    GradientBlock<T> gradients;
    T buffer[kBlock];
    from.read(op.from, start, length);
    for (int64_t i = 0; i < length; ++i) {
      const auto normal = from.normal(i);
      const auto k = expected_value(normal.mean, normal.std, from.bins);
      buffer[i] = static_cast<T>(k.value);
      gradients.set(i, normal, static_cast<T>(k.by_mean), static_cast<T>(k.by_std));
    }
    store(op.out, start, length, buffer);
    gradients.write(op.gradients, start, length);
  });
}

template <class T>
void choose(const Choose& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    NetworkBlock<T> from;
    T buffer[kBlock], normals[Noise::room(kBlock)];
    from.read(op.from, start, length);
    const T* eps = op.choice == Choice::kSample ? op.draw.normals(start, length, normals) : nullptr;
    choose_block(from, op.choice, eps, length, buffer);
    store(op.out, start, length, buffer);
  });
}

template <class T>
void discretised_update(const DiscretisedUpdate& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    NetworkBlock<T> from;
    T value[kBlock], buffers[5][kBlock], normals[Noise::room(kBlock)];
    from.read(op.from, start, length);
    const T* draw = op.choice == Choice::kSample ? op.draw.normals(start, length, normals) : nullptr;
    choose_block(from, op.choice, draw, length, value);
    if (op.known) {
      uint8_t mask_buffer[kBlock];
      const T* known = load(op.known, start, length, buffers[0]);
      const uint8_t* mask = load(op.known_mask, start, length, mask_buffer);
      for (int64_t i = 0; i < length; ++i) value[i] = mask[i] ? known[i] : value[i];
    }
    const T* state = load(op.state, start, length, buffers[1]);
    const T* a = load(op.a, start, length, buffers[2]);
    const T* b = load(op.b, start, length, buffers[3]);
    const T* std = load(op.std, start, length, buffers[4]);
    const T* eps = op.noise.normals(start, length, normals);
    for (int64_t i = 0; i < length; ++i) value[i] = a[i] * state[i] + b[i] * value[i] + std[i] * eps[i];
    store(op.out, start, length, value);
  });
}

template <class T>
void discretised_loss(const DiscretisedLoss& op) {
  reduce_losses<T>(op.to, 1, [&](int64_t start, int64_t length, const uint8_t* mask, T* loss) {
    if (op.weight) {
      T buffer[kBlock];
      const T* weight = load(op.weight, start, length, buffer);
      loss_block(op, start, length, mask, loss, [&](int64_t i, T x, const OutputNormal<T>& normal, Bins<T> bins) {
        return squared_error(x, weight[i], normal, bins);
      });
    } else if (op.alpha) {
      NStep<T> nstep(op);
      nstep.read(start, length);
      loss_block(op, start, length, mask, loss, nstep);
    } else {
      loss_block(op, start, length, mask, loss,
                 [](int64_t, T x, const OutputNormal<T>& normal, Bins<T> bins) { return bin_cost(x, normal, bins); });
    }
  });
}

#define BFN_INSTANTIATE(T)                                       \
  template void expected_value<T>(const ExpectedValue&);         \
  template void choose<T>(const Choose&);                        \
  template void discretised_update<T>(const DiscretisedUpdate&); \
  template void discretised_loss<T>(const DiscretisedLoss&);
BFN_INSTANTIATE(float)
BFN_INSTANTIATE(double)
#undef BFN_INSTANTIATE

}  // namespace bfn
