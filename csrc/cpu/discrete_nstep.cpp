#include "../ops/discrete.h"

#include "loss.h"
#include "noise.h"
#include "rows.h"

namespace bfn {
namespace {
constexpr int kSumLanes = 16;

// In double, so that the number of classes does not cost precision.
template <class T, class F>
T sum_over(int64_t begin, int64_t end, F&& f) {
  double lanes[kSumLanes] = {};
  int64_t k = begin;
  for (; k + kSumLanes <= end; k += kSumLanes) {
    for (int j = 0; j < kSumLanes; ++j) lanes[j] += f(k + j);
  }
  double sum = 0;
  for (; k < end; ++k) sum += f(k);
  for (int j = 0; j < kSumLanes; ++j) sum += lanes[j];
  return static_cast<T>(sum);
}

// NaN where any of them is.
template <class T, class F>
T max_over(int64_t begin, int64_t end, F&& f) {
  T lanes[kSumLanes], top = -std::numeric_limits<T>::infinity();
  for (int j = 0; j < kSumLanes; ++j) lanes[j] = top;
  int64_t k = begin;
  for (; k + kSumLanes <= end; k += kSumLanes) {
    for (int j = 0; j < kSumLanes; ++j) {
      const T value = f(k + j);
      lanes[j] = value <= lanes[j] ? lanes[j] : value;
    }
  }
  for (; k < end; ++k) top = f(k) <= top ? top : f(k);
  for (int j = 0; j < kSumLanes; ++j) top = lanes[j] <= top ? top : lanes[j];
  return top;
}

template <class T, class F>
T sum_without(int64_t x, int64_t count, F&& f) {
  return sum_over<T>(0, x, f) + sum_over<T>(x + 1, count, f);
}

template <class T>
T max_of(const T* z, int64_t count) {
  return max_over<T>(0, count, [z](int64_t k) { return z[k]; });
}

// ln((1 - p_x)/p_x), by the largest logit but x's.
template <class T, class F>
T log_odds_against(int64_t x, int64_t count, F&& z) {
  const T below = max_over<T>(0, x, z), above = max_over<T>(x + 1, count, z);
  const T top = below <= above ? above : below;
  return log(sum_without<T>(x, count, [&](int64_t k) { return exp(z(k) - top); })) + top - z(x);
}

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// e of a row over its sum, in place.
template <class T>
void softmax(T* z, int64_t count) {
  const T top = max_of(z, count);
  for (int64_t k = 0; k < count; ++k) z[k] = exp_difference(z[k], top);
  const T inverse = T(1) / sum_over<T>(0, count, [z](int64_t k) { return z[k]; });
  for (int64_t k = 0; k < count; ++k) z[k] *= inverse;
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

template void discrete_nstep<float>(const DiscreteNStep&);
template void discrete_nstep<double>(const DiscreteNStep&);

}  // namespace bfn
