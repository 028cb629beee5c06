#include "../ops/discretised.h"

#include <memory>

#include "../math/bin_prob.h"
#include "../math/discretised.h"
#include "expected_value.h"
#include "loss.h"
#include "noise.h"
#include "nstep.h"

namespace bfn {
namespace {

// What the network put out for a block of variables, and the normals that it stands for.
template <class T>
struct NetworkBlock {
  T mean[kBlock], std[kBlock], mean_by_prediction[kBlock], std_by_log_std[kBlock];
  Bins<T> bins;

  NetworkBlock(const NetworkOutput& from, int64_t start, int64_t length) : bins{from.num_bins, from.clip} {
    T buffers[5][kBlock];
    const T* prediction = load(from.prediction, start, length, buffers[0]);
    const T* log_std = load(from.log_std, start, length, buffers[1]);
    const T* state = load(from.mean, start, length, buffers[2]);
    const T* a = load(from.a, start, length, buffers[3]);
    const T* b = load(from.b, start, length, buffers[4]);
    const auto read = [&](auto kind) {  // known to the compiler, so that the loop has no branch
      for (int64_t i = 0; i < length; ++i) {
        const auto normal = output_normal(decltype(kind)::value, prediction[i], log_std[i], state[i], a[i], b[i]);
        mean[i] = normal.mean;
        std[i] = normal.std;
        mean_by_prediction[i] = normal.mean_by_prediction;
        std_by_log_std[i] = normal.std_by_log_std;
      }
    };
    using P = Parametrisation;
    if (from.kind == P::kDirect) read(std::integral_constant<P, P::kDirect>{});
    if (from.kind == P::kData) read(std::integral_constant<P, P::kData>{});
    if (from.kind == P::kNoise) read(std::integral_constant<P, P::kNoise>{});
  }
};

// Derivatives by a block's means and stds.
template <class T>
struct GradientBlock {
  T by_mean[kBlock], by_std[kBlock];

  // By the predictions; 0 where the mask is.
  void write(const LossGradients& to, const NetworkBlock<T>& from, int64_t start, int64_t length,
             const uint8_t* mask = nullptr) {
    for (int64_t i = 0; i < length; ++i) by_mean[i] *= from.mean_by_prediction[i];
    for (int64_t i = 0; i < length; ++i) by_std[i] *= from.std_by_log_std[i];
    for (int64_t i = 0; mask && i < length; ++i) {
      by_mean[i] = mask[i] ? by_mean[i] : T(0);
      by_std[i] = mask[i] ? by_std[i] : T(0);
    }
    if (to.by_prediction) store(to.by_prediction, start, length, by_mean);
    if (to.by_log_std) store(to.by_log_std, start, length, by_std);
  }
};

template <class T>
void choose_block(const NetworkBlock<T>& from, Choice choice, const T* eps, int64_t length, T* out) {
  if (choice == Choice::kMean) {
    ExpectedBlock<T> k;
    k.sum(from.mean, from.std, length, from.bins);
    for (int64_t i = 0; i < length; ++i) out[i] = k.base[i] + k.shift[i];
  } else if (choice == Choice::kMode) {
    for (int64_t i = 0; i < length; ++i) out[i] = mode(from.mean[i], from.std[i], from.bins);
  } else {
    for (int64_t i = 0; i < length; ++i) {
      out[i] = from.bins.centre(from.bins.index(clamp(from.mean[i] + from.std[i] * eps[i], T(-1), T(1))));
    }
  }
}

// L_inf: weight (x - k)^2.
template <class T>
void squared_error(const DiscretisedLoss& op, const NetworkBlock<T>& from, const T* x, int64_t start, int64_t length,
                   T* loss, GradientBlock<T>& gradients) {
  T buffer[kBlock];
  const T* weight = load(op.weight, start, length, buffer);
  ExpectedBlock<T> k;
  k.sum(from.mean, from.std, length, from.bins);
  for (int64_t i = 0; i < length; ++i) {
    const T error = (x[i] - k.base[i]) - k.shift[i], slope = -2 * weight[i] * error;
    loss[i] = weight[i] * error * error;
    gradients.by_mean[i] = slope * k.by_mean[i];
    gradients.by_std[i] = slope * k.by_std[i];
  }
}

// -ln p of the bin of x.
template <class T>
void bin_cost(const NetworkBlock<T>& from, const T* x, int64_t length, T* loss, GradientBlock<T>& gradients) {
  const auto cost = [&](auto clip) {
    const Bins<T> bins{from.bins.count, decltype(clip)::value};
    for (int64_t i = 0; i < length; ++i) {
      const auto p = log_bin_prob(bins.index(x[i]), from.mean[i], from.std[i], bins);
      loss[i] = -p.value;
      gradients.by_mean[i] = -p.by_mean;
      gradients.by_std[i] = -p.by_std;
    }
  };
  if (from.bins.clip) {
    cost(std::true_type{});
  } else {
    cost(std::false_type{});
  }
}

// L_n; one for all blocks of a thread.
template <class T>
class NStep {
 public:
  explicit NStep(const DiscretisedLoss& loss)
      : op(loss),
        draws(loss.n_samples ? loss.n_samples : loss.num_nodes),
        eps(draws),
        weights(draws),
        results(draws),
        normals(loss.n_samples ? draws * Noise::room(kBlock) : 0),
        sum({loss.from.num_bins, loss.from.clip}) {
    for (int64_t i = 0; i < draws; ++i) {
      eps[i] = op.n_samples ? T(0) : static_cast<T>(op.nodes[i]);
      weights[i] = op.n_samples ? T(1) / static_cast<T>(draws) : static_cast<T>(op.node_weights[i]);
    }
  }

  void operator()(const NetworkBlock<T>& from, const T* x, int64_t start, int64_t length, const uint8_t* mask, T* loss,
                  GradientBlock<T>& gradients) {
    T alpha_buffer[kBlock];
    const T* alpha = load(op.alpha, start, length, alpha_buffer);
    draw(start, length);
    for (int64_t i = 0; i < length; ++i) {
      if (mask && !mask[i]) continue;
      for (int64_t d = 0; d < op.n_samples; ++d) eps[d] = normals[d * Noise::room(kBlock) + i];
      sum(x[i], from.mean[i], from.std[i], 1 / sqrt(alpha[i]), eps.data(), draws, results.data());
      T value = 0, by_mean = 0, by_std = 0;
      for (int64_t d = 0; d < draws; ++d) {
        value += weights[d] * results[d].value;
        by_mean += weights[d] * results[d].by_mean;
        by_std += weights[d] * results[d].by_std;
      }
      const T n = static_cast<T>(op.n_steps);
      loss[i] = -n * value;
      gradients.by_mean[i] = -n * by_mean;
      gradients.by_std[i] = -n * by_std;
    }
  }

 private:
  const DiscretisedLoss& op;
  int64_t draws;
  std::vector<T> eps, weights;
  std::vector<WithGradient<T>> results;
  std::vector<T> normals;
  NStepSum<T> sum;

  void draw(int64_t start, int64_t length) {
    const int64_t all = op.to.batch * op.to.per_batch;
    for (int64_t d = 0; d < op.n_samples; ++d) {
      T* buffer = normals.data() + d * Noise::room(kBlock);
      const T* from = op.noise.normals(start, length, buffer, static_cast<uint32_t>(d), all);
      std::memmove(buffer, from, length * sizeof(T));
    }
  }
};

}  // namespace

template <class T>
void expected_value(const DiscretisedExpectedValue& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    const NetworkBlock<T> from(op.from, start, length);
    GradientBlock<T> gradients;
    ExpectedBlock<T> k;
    T buffer[kBlock];
    k.sum(from.mean, from.std, length, from.bins);
    for (int64_t i = 0; i < length; ++i) buffer[i] = k.base[i] + k.shift[i];
    std::copy_n(k.by_mean, length, gradients.by_mean);
    std::copy_n(k.by_std, length, gradients.by_std);
    store(op.out, start, length, buffer);
    gradients.write(op.gradients, from, start, length);
  });
}

template <class T>
void choose(const Choose& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    const NetworkBlock<T> from(op.from, start, length);
    T buffer[kBlock], normals[Noise::room(kBlock)];
    const T* eps = op.choice == Choice::kSample ? op.draw.normals(start, length, normals) : nullptr;
    choose_block(from, op.choice, eps, length, buffer);
    store(op.out, start, length, buffer);
  });
}

template <class T>
void discretised_update(const DiscretisedUpdate& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    const NetworkBlock<T> from(op.from, start, length);
    T value[kBlock], buffers[5][kBlock], normals[Noise::room(kBlock)];
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
  const auto scratch = [&] { return op.alpha ? std::make_unique<NStep<T>>(op) : nullptr; };
  reduce_losses<T>(op.to, 1, scratch, [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, auto& nstep) {
    const NetworkBlock<T> from(op.from, start, length);
    GradientBlock<T> gradients;
    T buffer[kBlock];
    const T* x = load(op.x, start, length, buffer);
    if (op.weight) {
      squared_error(op, from, x, start, length, loss, gradients);
    } else if (op.alpha) {
      (*nstep)(from, x, start, length, mask, loss, gradients);
    } else {
      bin_cost(from, x, length, loss, gradients);
    }
    gradients.write(op.gradients, from, start, length, mask);
  });
}

#define BFN_INSTANTIATE(T)                                          \
  template void expected_value<T>(const DiscretisedExpectedValue&); \
  template void choose<T>(const Choose&);                           \
  template void discretised_update<T>(const DiscretisedUpdate&);    \
  template void discretised_loss<T>(const DiscretisedLoss&);
BFN_INSTANTIATE(float)
BFN_INSTANTIATE(double)
#undef BFN_INSTANTIATE

}  // namespace bfn
