#include "../ops/discrete.h"

#include "loss.h"
#include "noise.h"
#include "rows.h"

namespace bfn {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// e of a row over its sum, in place.
template <class T>
void softmax(T* z, int64_t count) {
  const T top = max_of(z, count);
  for (int64_t k = 0; k < count; ++k) z[k] = exp_difference(z[k], top);
  const T inverse = T(1) / sum_over<T>(0, count, [z](int64_t k) { return z[k]; });
  for (int64_t k = 0; k < count; ++k) z[k] *= inverse;
}

// The first k whose cumulative probability exceeds u; if none does, the last k with p_k > 0. -1 for NaN.
template <class T>
int64_t draw_class(const T* e, int64_t count, T total, T uniform) {
  if (!(total - total == T(0))) return -1;
  T cumulative = 0;
  for (int64_t k = 0; k < count; ++k) {
    cumulative += e[k];
    if (cumulative > uniform * total) return k;
  }
  int64_t last = count - 1;
  while (last > 0 && !(e[last] > T(0))) --last;
  return last;
}

// What a network's row sends: p_k if `kMean`, else a class with everything on it.
template <class T>
struct Sent {
  int64_t one;  // the class, or -1
  const T* p;   // the probabilities where no class is sent

  T at(int64_t k) const { return p ? p[k] : static_cast<T>(k == one); }
};

template <class T>
Sent<T> choose(const DiscreteUpdate& op, int64_t row, T* p) {
  const int64_t count = op.num_classes;
  if (op.choice == DiscreteChoice::kMean) {
    softmax(p, count);
    return {-1, p};
  }
  const T top = max_of(p, count);
  if (op.choice == DiscreteChoice::kMode) {
    const int64_t first = std::find(p, p + count, top) - p;
    return {first < count ? first : -1, nullptr};
  }
  for (int64_t k = 0; k < count; ++k) p[k] = exp_difference(p[k], top);
  const T total = sum_over<T>(0, count, [p](int64_t k) { return p[k]; });
  return {draw_class(p, count, total, op.draw.uniform<T>(row)), nullptr};
}

template <class T>
T log_odds_row(const T* z, int64_t x, int64_t count) {
  return log_odds_against<T>(x, count, [z](int64_t k) { return z[k]; });
}

template <class T>
struct NStepScratch {
  std::vector<T> logits, normals, sum, e, p;
  explicit NStepScratch(int64_t count) : logits(count), normals(Noise::room(count)), sum(count), e(count), p(count) {}
};

// One draw of the joint receiver: its divergence, and weight (softmax(z) - softmax(z + y)) onto the gradient.
template <class T>
T joint_draw(const T* z, const T* p, int64_t x, int64_t count, T before, T alpha, const T* eps, T weight,
             NStepScratch<T>& scratch) {
  const T classes = static_cast<T>(count), spread = sqrt(classes * alpha), towards_x = classes * alpha;
  T *growth = scratch.e.data(), *gradient = scratch.sum.data();
  for (int64_t k = 0; k < count; ++k) {
    growth[k] = expm1(clamp(spread * (eps[k] - eps[x]) - towards_x, T(-kMaxShift), T(kMaxShift)));
  }
  growth[x] = 0;
  const T sum = sum_over<T>(0, count, [&](int64_t k) { return p[k] * growth[k]; });
  if (joint_sum_serves(sum)) {
    const T factor = weight / (1 + sum);
    for (int64_t k = 0; k < count; ++k) gradient[k] += factor * p[k] * (sum - growth[k]);
    return -log1p(sum);
  }
  T* shifted = growth;
  for (int64_t k = 0; k < count; ++k) shifted[k] = z[k] + spread * eps[k];
  shifted[x] += towards_x;
  const T value = joint_divergence(before, log_odds_row(shifted, x, count));
  softmax(shifted, count);
  for (int64_t k = 0; k < count; ++k) gradient[k] += weight * (p[k] - shifted[k]);
  return value;
}

// K = 2, by quadrature: y_x - y_o ~ N(2 alpha, 4 alpha).
template <class T>
T binary_node(const T* p, int64_t x, T before, T alpha, T node, T weight, NStepScratch<T>& scratch) {
  const T difference = -(2 * alpha + 2 * sqrt(alpha) * node), other = p[1 - x];
  const T growth = expm1(clamp(difference, T(-kMaxShift), T(kMaxShift))), sum = other * growth;
  const bool serves = joint_sum_serves(sum);
  const T step = serves ? other * p[x] * growth / (1 + sum) : sigmoid(before + difference) - other;
  scratch.sum[x] += weight * step;
  scratch.sum[1 - x] -= weight * step;
  return serves ? -log1p(sum) : joint_divergence(before, before + difference);
}

// One draw of the factorised receiver: its divergence, and the derivatives by p into the sum. eps is one number for
// all classes where `common`.
template <class T>
T factorised_draw(const T* p, int64_t x, int64_t count, int64_t likeliest, T rest, T alpha, const T* eps, bool common,
                  T weight, NStepScratch<T>& scratch) {
  const T r = sqrt(static_cast<T>(count) * alpha);
  T* sum = scratch.sum.data();
  return sum_over<T>(0, count, [&](int64_t k) {
    const auto term = factorised_term(k == x, p[k], k == likeliest ? rest : 1 - p[k], r, common ? eps[0] : eps[k]);
    sum[k] += weight * term.derivative;
    return term.value;
  });
}

// The loss of a row, and its gradient by the logits into scratch.sum.
template <class T>
T nstep_row(const DiscreteNStep& op, int64_t row, int64_t x, const T* z, T alpha, NStepScratch<T>& scratch) {
  const int64_t count = op.num_classes, draws = op.n_samples ? op.n_samples : op.num_nodes;
  const int64_t all = op.to.batch * op.to.per_batch * count;
  const bool factorised = op.receiver == Receiver::kFactorised;
  std::fill(scratch.sum.begin(), scratch.sum.end(), T(0));
  const T before = factorised ? T(0) : log_odds_row(z, x, count);
  T* p = scratch.p.data();
  std::copy_n(z, count, p);
  softmax(p, count);
  const int64_t likeliest = std::max_element(p, p + count) - p;
  const T rest = sum_without<T>(likeliest, count, [&](int64_t k) { return p[k]; });
  double value = 0;
  for (int64_t i = 0; i < draws; ++i) {
    const T weight = op.n_samples ? T(1) / static_cast<T>(draws) : static_cast<T>(op.node_weights[i]);
    const T node = op.n_samples ? T(0) : static_cast<T>(op.nodes[i]);
    const T* eps = &node;
    if (op.n_samples) {
      eps = op.noise.row_normals(row, count, scratch.normals.data(), static_cast<uint32_t>(i), all);
    }
    if (factorised) {
      value += weight * factorised_draw(p, x, count, likeliest, rest, alpha, eps, op.n_samples == 0, weight, scratch);
    } else if (op.n_samples) {
      value += weight * joint_draw(z, p, x, count, before, alpha, eps, weight, scratch);
    } else {
      value += weight * binary_node(p, x, before, alpha, node, weight, scratch);
    }
  }
  if (factorised) {
    // p_k (g_k - mean of g), which for the likeliest class would cancel: there the differences are summed instead
    const T* g = scratch.sum.data();
    const T mean = sum_over<T>(0, count, [&](int64_t k) { return p[k] * g[k]; });
    const T away = sum_without<T>(likeliest, count, [&](int64_t k) { return p[k] * (g[likeliest] - g[k]); });
    for (int64_t k = 0; k < count; ++k) scratch.sum[k] = p[k] * (k == likeliest ? away : g[k] - mean);
  }
  for (int64_t k = 0; k < count; ++k) scratch.sum[k] *= static_cast<T>(op.n_steps);
  return static_cast<T>(static_cast<double>(op.n_steps) * value);
}

}  // namespace

template <class T>
void discrete_sender(const DiscreteSender& op) {
  const int64_t count = op.num_classes;
  for_blocks(op.count, count, [&](int64_t start, int64_t length) {
    std::vector<T> normals(Noise::room(count)), buffer(count);
    for (int64_t row = start; row < start + length; ++row) {
      int64_t x_buffer;
      T beta_buffer, spread_buffer;
      const int64_t x = *load(op.x, row, 1, &x_buffer);
      const T beta = *load(op.beta, row, 1, &beta_buffer), spread = *load(op.spread, row, 1, &spread_buffer);
      const T* eps = op.noise.row_normals(row, count, normals.data());
      T* y = target(op.out, row * count, buffer.data());
      if (op.bad->check(x, count)) {
        const T classes = static_cast<T>(count);
        for (int64_t k = 0; k < count; ++k) y[k] = message(T(0), beta, spread, eps[k], classes);
        y[x] += beta * classes;
        if (op.probs) softmax(y, count);
      } else {
        std::fill_n(y, count, static_cast<T>(kNaN));
      }
      store(op.out, row * count, count, y);
    }
  });
}

template <class T>
void discrete_update(const DiscreteUpdate& op) {
  const int64_t count = op.num_classes;
  for_blocks(op.count, count, [&](int64_t start, int64_t length) {
    std::vector<T> normals(Noise::room(count)), p_buffer(count), state_buffer(count);
    for (int64_t row = start; row < start + length; ++row) {
      T beta_buffer, spread_buffer;
      uint8_t mask_buffer = 0;
      int64_t known_buffer;
      const T beta = *load(op.beta, row, 1, &beta_buffer), spread = *load(op.spread, row, 1, &spread_buffer);
      Sent<T> sent{-1, nullptr};
      if (op.known && *load(op.known_mask, row, 1, &mask_buffer)) {
        const int64_t known = *load(op.known, row, 1, &known_buffer);
        if (op.bad->check(known, count)) sent.one = known;
      } else {
        const T* logits = load(op.output_logits, row * count, count, p_buffer.data());
        if (logits != p_buffer.data()) std::copy_n(logits, count, p_buffer.data());
        sent = choose(op, row, p_buffer.data());
      }
      const T* state = load(op.state, row * count, count, state_buffer.data());
      const T* eps = op.noise.row_normals(row, count, normals.data());
      const T poison = sent.one < 0 && !sent.p ? static_cast<T>(kNaN) : T(0), classes = static_cast<T>(count);
      T* out = target(op.out, row * count, p_buffer.data());
      for (int64_t k = 0; k < count; ++k) {
        out[k] = state[k] + (message(sent.at(k), beta, spread, eps[k], classes) + poison);
      }
      store(op.out, row * count, count, out);
    }
  });
}

template <class T>
void discrete_loss(const DiscreteLoss& op) {
  const int64_t count = op.num_classes;
  reduce_losses<T>(op.to, count, [&](int64_t start, int64_t length, const uint8_t* mask, T* loss) {
    std::vector<T> buffer(count), e(count);
    for (int64_t i = 0; i < length; ++i) {
      if (mask && !mask[i]) continue;
      int64_t x_buffer;
      T weight_buffer;
      const int64_t x = *load(op.x, start + i, 1, &x_buffer);
      loss[i] = static_cast<T>(kNaN);
      if (!op.bad->check(x, count)) continue;
      const T* z = load(op.logits, (start + i) * count, count, buffer.data());
      const auto row = row_stats(z, x, count, e.data());
      loss[i] =
          op.weight ? *load(op.weight, start + i, 1, &weight_buffer) * squared_distance(row) : cross_entropy(row, z[x]);
    }
  });
}

template <class T>
void discrete_loss_backward(const DiscreteLossBackward& op) {
  const int64_t count = op.num_classes;
  for_blocks(op.count, count, [&](int64_t start, int64_t length) {
    std::vector<T> buffer(count), e(count);
    for (int64_t i = start; i < start + length; ++i) {
      uint8_t mask_buffer;
      int64_t x_buffer;
      T grad_buffer, weight_buffer;
      T* out = e.data();
      if (!*load(op.mask, i, 1, &mask_buffer, uint8_t{1})) {
        std::fill_n(out, count, T(0));
        store(op.by_logits, i * count, count, out);
        continue;
      }
      const int64_t x = *load(op.x, i, 1, &x_buffer);
      const T grad = *load(op.grad, i, 1, &grad_buffer);
      const T* z = load(op.logits, i * count, count, buffer.data());
      const auto row = row_stats(z, x, count, out);
      if (op.weight) {
        const T factor = grad * *load(op.weight, i, 1, &weight_buffer);
        for (int64_t k = 0; k < count; ++k) out[k] = factor * squared_distance_by_other(row, out[k]);
        out[x] = factor * squared_distance_by_x(row);
      } else {
        const T factor = grad / row.total();
        for (int64_t k = 0; k < count; ++k) out[k] *= factor;
        out[x] = -factor * row.rest;
      }
      store(op.by_logits, i * count, count, out);
    }
  });
}

template <class T>
void discrete_nstep(const DiscreteNStep& op) {
  const int64_t count = op.num_classes;
  reduce_losses<T>(op.to, count, [&](int64_t start, int64_t length, const uint8_t* mask, T* loss) {
    NStepScratch<T> scratch(count);
    for (int64_t i = 0; i < length; ++i) {
      int64_t x_buffer = 0;
      T alpha_buffer;
      const bool costs = !mask || mask[i];
      const int64_t x = costs ? *load(op.x, start + i, 1, &x_buffer) : 0;
      std::fill(scratch.sum.begin(), scratch.sum.end(), T(0));
      loss[i] = static_cast<T>(kNaN);
      if (costs && op.bad->check(x, count)) {
        const T* z = load(op.logits, (start + i) * count, count, scratch.logits.data());
        loss[i] = nstep_row(op, start + i, x, z, *load(op.alpha, start + i, 1, &alpha_buffer), scratch);
      }
      if (op.by_logits) store(op.by_logits, (start + i) * count, count, scratch.sum.data());
    }
  });
}

#define BFN_INSTANTIATE(T)                                              \
  template void discrete_sender<T>(const DiscreteSender&);              \
  template void discrete_update<T>(const DiscreteUpdate&);              \
  template void discrete_loss<T>(const DiscreteLoss&);                  \
  template void discrete_loss_backward<T>(const DiscreteLossBackward&); \
  template void discrete_nstep<T>(const DiscreteNStep&);
BFN_INSTANTIATE(float)
BFN_INSTANTIATE(double)
#undef BFN_INSTANTIATE

}  // namespace bfn
