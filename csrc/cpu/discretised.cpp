#include "../ops/discretised.h"

#include <memory>

#include "../math/bin_prob.h"
#include "../math/continuous.h"
#include "expected_value.h"
#include "loss.h"
#include "network.h"
#include "noise.h"
#include "nstep_block.h"
#include "solver.h"

namespace bfn {
namespace {

// The centre of the likeliest bin of variable i.
template <class T>
T likeliest(const NetworkBlock<T>& from, int64_t i) {
  if (!from.mixed) return mode(from.mean[i], from.std[i], from.bins);
  return mixture_mode(from.bins, [&](T bin) {
    T mass = 0;
    for (int64_t m = i * from.components; m < (i + 1) * from.components; ++m) {
      mass += from.share[m] * exp(log_bin_prob(bin, from.mean[m], from.std[m], from.bins).value);
    }
    return mass;
  });
}

// The component of variable i that the uniform draws; -1 if the shares are NaN.
template <class T>
int64_t component_of(const NetworkBlock<T>& from, int64_t i, T uniform) {
  const T* share = from.share + i * from.components;
  return drawn_component(static_cast<int>(from.components), uniform, [share](int m) { return share[m]; });
}

// Writes the expected value of each variable, given k, the expected values of its components.
template <class T>
void expected_values(const NetworkBlock<T>& from, const ExpectedBlock<T>& k, T* out) {
  if (!from.mixed) {
    for (int64_t i = 0; i < from.length; ++i) out[i] = k.at(i).value();
    return;
  }
  for (int64_t i = 0; i < from.length; ++i) {
    out[i] = 0;
    for (int64_t m = i * from.components; m < (i + 1) * from.components; ++m) {
      out[i] += from.share[m] * k.at(m).value();
    }
  }
}

// Writes the value that each variable sends.
template <class T>
void choose_block(const NetworkBlock<T>& from, const Sent& sent, const Noise& component, int64_t start, T* out) {
  if (sent.choice == Choice::kMean) {
    expected_values(from, ExpectedBlock<T>(from.mean, from.std, from.all(), from.bins), out);
  } else if (sent.choice == Choice::kMode) {
    for (int64_t i = 0; i < from.length; ++i) out[i] = likeliest(from, i);
  } else {
    T normals[noise_buffer_size(kBlock)], uniforms[noise_buffer_size(kBlock)];
    const T* eps = normals_of(sent.draw, start, from.length, normals);
    const T* uniform = from.mixed ? uniforms_of(component, start, from.length, uniforms) : nullptr;
    for (int64_t i = 0; i < from.length; ++i) {
      const int64_t m = from.mixed ? component_of(from, i, uniform[i]) : 0;
      const int64_t at = i * from.components + m;
      out[i] = from.bins.quantised(m < 0 ? kNaN<T> : from.mean[at] + from.std[at] * eps[i]);
    }
  }
}

// L_inf (101).
template <class T>
void squared_error(const DiscretisedLoss& op, const NetworkBlock<T>& from, const T* x, int64_t start, T* loss,
                   GradientBlock<T>& by) {
  T buffer[kBlock];
  const T* weight = load(op.weight, start, from.length, buffer);
  const ExpectedBlock<T> k(from.mean, from.std, from.all(), from.bins);
  if (!from.mixed) {
    for (int64_t i = 0; i < from.length; ++i) {
      const SquaredError<T> cost(weight[i], k.at(i).error(x[i]));
      loss[i] = cost.loss;
      by.by_mean[i] = cost.slope * k.by_mean[i];
      by.by_std[i] = cost.slope * k.by_std[i];
    }
    return;
  }
  for (int64_t i = 0; i < from.length; ++i) {
    const int64_t first = i * from.components, end = first + from.components;
    T error = 0;
    for (int64_t m = first; m < end; ++m) error += from.share[m] * k.at(m).error(x[i]);
    const SquaredError<T> cost(weight[i], error);
    loss[i] = cost.loss;
    for (int64_t m = first; m < end; ++m) {
      by.set(m, mean_gradient(cost.slope * from.share[m], k.at(m), error - k.at(m).error(x[i])));
    }
  }
}

// The cost -ln p of the bin of x (107-109).
template <class T>
void bin_cost(const NetworkBlock<T>& from, const View& x, int64_t start, T* loss, GradientBlock<T>& by) {
  T buffer[kBlock], log_p[kBlock];
  const T* each_x = load_each(x, start, from.length, from.components, buffer);
  const T weight = from.mixed ? T(1) : T(-1);  // of ln p in the cost; log_sum_gradient weights a mixture's components
  const auto cost = [&](auto clip) {
    const Bins<T> bins{from.bins.count, decltype(clip)::value};
    for (int64_t i = 0; i < from.all(); ++i) {
      const auto p = log_bin_prob(bins.index(each_x[i]), from.mean[i], from.std[i], bins);
      log_p[i] = p.value;
      by.by_mean[i] = weight * p.by_mean;
      by.by_std[i] = weight * p.by_std;
    }
  };
  if (from.bins.clip) {
    cost(std::true_type{});
  } else {
    cost(std::false_type{});
  }
  if (!from.mixed) {
    for (int64_t i = 0; i < from.length; ++i) loss[i] = -log_p[i];
    return;
  }
  for (int64_t i = 0; i < from.length; ++i) {
    const int64_t first = i * from.components, end = first + from.components;
    T e[kBlock];
    for (int64_t m = first; m < end; ++m) log_p[m] += from.log_share[m];
    const LogSum<T> total = log_sum(log_p + first, from.components, e);
    loss[i] = -total.value();
    for (int64_t m = first; m < end; ++m) {
      const WithGradient<T> of_component{log_p[m], by.by_mean[m], by.by_std[m]};
      by.set(m, log_sum_gradient(T(-1), e[m - first] / total.sum, from.share[m], of_component));
    }
  }
}

}  // namespace

template <class T>
void output_std(const OutputStd& op) {
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    const NetworkBlock<T> from(op.from, start, length);
    store(op.out, start, length, from.std);
    if (op.grad) store(op.grad, start, length, from.std_by_log_std);
  });
}

template <class T>
void expected_value(const DiscretisedExpectedValue& op) {
  StdCheck<T> stds;
  for_blocks(op.count, op.from.components, [&](int64_t start, int64_t length) {
    const NetworkBlock<T> from(op.from, start, length, &stds);
    const ExpectedBlock<T> k(from.mean, from.std, from.all(), from.bins);
    GradientBlock<T> by;
    T out[kBlock];
    expected_values(from, k, out);
    store(op.out, start, length, out);
    for (int64_t i = 0; i < from.all(); ++i) {
      const T share = from.mixed ? from.share[i] : T(1);
      by.set(i, mean_gradient(share, k.at(i), from.mixed ? k.at(i).value() - out[i / from.components] : T(0)));
    }
    by.write(op.gradients, from, start);
  });
  stds.throw_if_found();
}

template <class T>
void choose(const Choose& op) {
  StdCheck<T> stds;
  for_blocks(op.count, op.from.components, [&](int64_t start, int64_t length) {
    const NetworkBlock<T> from(op.from, start, length, &stds);
    T out[kBlock];
    choose_block(from, op.sent, op.component, start, out);
    store(op.out, start, length, out);
  });
  stds.throw_if_found();
}

template <class T>
void discretised_update(const DiscretisedUpdate& op) {
  for_blocks(op.count, op.from.components, [&](int64_t start, int64_t length) {
    const NetworkBlock<T> from(op.from, start, length);
    T value[kBlock], buffers[5][kBlock], normals[noise_buffer_size(kBlock)];
    choose_block(from, op.sent, op.component, start, value);
    if (op.sent.known)
      overwrite(op.sent.known_mask, start, length, load(op.sent.known, start, length, buffers[0]), value);
    if (op.solver.predicts) extrapolate(op.solver, start, length, value);
    const T* state = load(op.from.mean, start, length, buffers[1]);
    const T* keep = load(op.solver.keep, start, length, buffers[2], T(1));
    const T* take = load(op.solver.take, start, length, buffers[3]);
    const T* noise_scale = load(op.solver.std, start, length, buffers[4]);
    const T* eps = normals_or_zeros(op.noise, start, length, normals);
    for (int64_t i = 0; i < length; ++i) {
      value[i] = updated_mean(keep[i], state[i], take[i], value[i], noise_scale[i], eps[i]);
    }
    store(op.out, start, length, value);
  });
}

template <class T>
void discretised_loss(const DiscretisedLoss& op) {
  const auto scratch = [&] { return op.alpha ? std::make_unique<NStep<T>>(op) : nullptr; };
  RangeCheck<T> range("x", -1, 1);
  StdCheck<T> stds;
  const auto block = [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, auto& nstep) {
    const NetworkBlock<T> from(op.from, start, length, &stds);
    GradientBlock<T> by;
    T buffer[kBlock];
    const T* x = load(op.x, start, length, buffer);
    range.check(x, length, mask);
    if (op.weight) {
      squared_error(op, from, x, start, loss, by);
    } else if (op.alpha) {
      (*nstep)(from, x, start, mask, loss, by);
    } else {
      bin_cost(from, op.x, start, loss, by);
    }
    by.write(op.gradients, from, start, mask);
  };
  reduce_losses<T>(op.to, op.from.components, scratch, block);
  range.throw_if_found();
  stds.throw_if_found();
}

BFN_INSTANTIATE(output_std, const OutputStd&);
BFN_INSTANTIATE(expected_value, const DiscretisedExpectedValue&);
BFN_INSTANTIATE(choose, const Choose&);
BFN_INSTANTIATE(discretised_update, const DiscretisedUpdate&);
BFN_INSTANTIATE(discretised_loss, const DiscretisedLoss&);

}  // namespace bfn
