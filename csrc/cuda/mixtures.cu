#include "mixtures.h"

#include "../math/bin_prob.h"
#include "../math/expected_value.h"
#include "access.h"
#include "nstep_bins.h"

namespace bfn {
namespace {

// ln sum exp of terms that come one by one.
template <class T>
struct LogSum {
  T top = -std::numeric_limits<T>::infinity(), sum = 0;

  __device__ void add(T term) {
    if (term > top) {
      sum = sum * exp(top - term) + 1;
      top = term;
    } else {
      sum += term == top ? T(1) : exp(term - top);
    }
  }
  __device__ T value() const { return top + log(sum); }
  // A term's part in the sum; through `value` it would take over the rounding of a large one.
  __device__ T part(T term) const { return exp(term - top) / sum; }
};

// Those of one variable.
template <class T>
class Components {
 public:
  __device__ Components(const NetworkOutput& from, int64_t variable)
      : from_(from),
        first_(variable * from.components),
        mean_(read<T>(from.mean, variable)),
        a_(read<T>(from.mean_scale, variable)),
        b_(read<T>(from.noise_scale, variable)) {
    LogSum<T> total;
    for (int m = 0; m < count(); ++m) total.add(read<T>(from.mixture_logits, first_ + m));
    top_ = total.top;
    log_sum_ = log(total.sum);
  }

  __device__ int count() const { return static_cast<int>(from_.components); }
  __device__ T log_share(int m) const { return (read<T>(from_.mixture_logits, first_ + m) - top_) - log_sum_; }
  __device__ T share(int m) const { return exp(log_share(m)); }
  __device__ OutputNormal<T> normal(int m) const {
    const T prediction = read<T>(from_.prediction, first_ + m), log_std = read<T>(from_.log_std, first_ + m);
    return output_normal(from_.kind, prediction, log_std, mean_, a_, b_);
  }
  // The component that a uniform draws: the first whose cumulative share exceeds it, else the last with a share; -1
  // where the shares are NaN.
  __device__ int drawn(T uniform) const {
    T cumulative = 0;
    int last = 0;
    for (int m = 0; m < count(); ++m) {
      const T part = share(m);
      cumulative += part;
      if (cumulative > uniform) return m;
      if (part > T(0)) last = m;
    }
    return cumulative == cumulative ? last : -1;
  }
  // sum of share times f(m).
  template <class F>
  __device__ T mean_of(F&& f) const {
    T sum = 0;
    for (int m = 0; m < count(); ++m) sum += share(m) * f(m);
    return sum;
  }
  // Gradients by the m-th component's mean, std and logit, as those by what the network put out; `add` to what is
  // there.
  __device__ void store(const NetworkGradients& to, int m, T by_mean, T by_std, T by_logit, bool add = false) const {
    const OutputNormal<T> through = normal(m);
    put(to.grad_prediction, m, by_mean * through.mean_by_prediction, add);
    put(to.grad_log_std, m, by_std * through.std_by_log_std, add);
    put(to.grad_mixture_logits, m, by_logit, add);
  }
  __device__ void store_zeros(const NetworkGradients& to) const {
    for (int m = 0; m < count(); ++m) {
      for (const View* view : {&to.grad_prediction, &to.grad_log_std, &to.grad_mixture_logits})
        put(*view, m, T(0), false);
    }
  }

 private:
  const NetworkOutput& from_;
  int64_t first_;
  T mean_, a_, b_, top_, log_sum_;

  __device__ void put(const View& view, int m, T value, bool add) const {
    if (view) write(view, first_ + m, (add ? read<T>(view, first_ + m) : T(0)) + value);
  }
};

__device__ bool any(const NetworkGradients& to) {
  return to.grad_prediction || to.grad_log_std || to.grad_mixture_logits;
}

template <class T>
__device__ ExpectedValue<T> expected_of(const Components<T>& of, int m, Bins<T> bins) {
  const OutputNormal<T> normal = of.normal(m);
  return expected_value(normal.mean, normal.std, bins);
}

template <class T>
__device__ T mixture_mean(const Components<T>& of, Bins<T> bins) {
  return of.mean_of([&](int m) {
    const auto k = expected_of(of, m, bins);
    return k.base + k.shift;
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    expected_value_kernel(const __grid_constant__ DiscretisedExpectedValue op) {
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  for_grid<General<T>>(op.count, RowMap{}, [&](auto at) {
    const Components<T> of(op.from, at.start);
    const T out[1] = {mixture_mean(of, bins)};
    at.store_network(op.out, out);
    for (int m = 0; any(op.gradients) && m < of.count(); ++m) {
      const auto k = expected_of(of, m, bins);
      const T share = of.share(m);
      of.store(op.gradients, m, share * k.by_mean, share * k.by_std, share * (k.base + k.shift - out[0]));
    }
  });
}

// The bin with the most mass: all are tried.
template <class T>
__device__ T likeliest(const Components<T>& of, Bins<T> bins) {
  T best = 0, best_mass = -1;
  for (int64_t k = 0; k < bins.count; ++k) {
    const T mass = of.mean_of([&](int m) {
      const OutputNormal<T> normal = of.normal(m);
      return exp(log_bin_prob(static_cast<T>(k), normal.mean, normal.std, bins).value);
    });
    if (mass > best_mass) best = static_cast<T>(k);
    best_mass = mass <= best_mass ? best_mass : mass;
  }
  return best_mass >= T(0) ? bins.centre(best) : best_mass;
}

template <class T>
__device__ T value_of(const NetworkOutput& from, Choice choice, const Noise& draw, const Noise& component,
                      const General<T>& at) {
  const Components<T> of(from, at.start);
  const Bins<T> bins{from.num_bins, from.clip};
  if (choice == Choice::kMean) return mixture_mean(of, bins);
  if (choice == Choice::kMode) return likeliest(of, bins);
  T eps[1];
  at.noise(draw, draw.seed ? *draw.seed : 0, eps);
  const T uniform = one_uniform<T>(component, component.seed ? *component.seed : 0, at.start);
  const int m = of.drawn(uniform);
  if (m < 0) return static_cast<T>(NAN);
  const OutputNormal<T> normal = of.normal(m);
  return bins.centre(bins.index(clamp(normal.mean + normal.std * eps[0], T(-1), T(1))));
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) choose_kernel(const __grid_constant__ struct Choose op) {
  for_grid<General<T>>(op.count, RowMap{}, [&](auto at) {
    const T value[1] = {value_of(op.from, op.choice, op.draw, op.component, at)};
    at.store_network(op.out, value);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) update_kernel(const __grid_constant__ DiscretisedUpdate op) {
  const int64_t seed = op.noise.seed ? *op.noise.seed : 0;
  for_grid<General<T>>(op.count, RowMap{}, [&](auto at) {
    T value = value_of(op.from, op.choice, op.draw, op.component, at), eps[1];
    if (read<int>(op.known_mask, at.start) != 0) value = read<T>(op.known, at.start);
    at.noise(op.noise, seed, eps);
    const T a = read<T>(op.keep, at.start), b = read<T>(op.take, at.start), std = read<T>(op.noise_scale, at.start);
    const T out[1] = {fused(std, eps[0], fused(b, value, a * read<T>(op.state, at.start)))};
    at.store_data(op.out, out);
  });
}

// L_inf: weight (x - k)^2.
template <class T>
__device__ T squared_error(const DiscretisedLoss& op, const Components<T>& of, T x, T weight, Bins<T> bins) {
  const auto distance = [&](const ExpectedValue<T>& k) { return (x - k.base) - k.shift; };
  const T error = of.mean_of([&](int m) { return distance(expected_of(of, m, bins)); }), slope = -2 * weight * error;
  for (int m = 0; any(op.gradients) && m < of.count(); ++m) {
    const auto k = expected_of(of, m, bins);
    const T by = slope * of.share(m);
    of.store(op.gradients, m, by * k.by_mean, by * k.by_std, by * (error - distance(k)));
  }
  return weight * error * error;
}

// -ln p of the bin of x.
template <class T>
__device__ T bin_cost(const DiscretisedLoss& op, const Components<T>& of, T x, Bins<T> bins) {
  const auto log_p = [&](int m) {
    const OutputNormal<T> normal = of.normal(m);
    return log_bin_prob(bins.index(x), normal.mean, normal.std, bins);
  };
  LogSum<T> total;
  for (int m = 0; m < of.count(); ++m) total.add(of.log_share(m) + log_p(m).value);
  for (int m = 0; any(op.gradients) && m < of.count(); ++m) {
    const auto p = log_p(m);
    const T part = total.part(of.log_share(m) + p.value);
    of.store(op.gradients, m, -part * p.by_mean, -part * p.by_std, of.share(m) - part);
  }
  return -total.value();
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    loss_kernel(const __grid_constant__ DiscretisedLoss op, const Chunks chunks) {
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  reduce_losses<General<T>>(op.to, chunks, RowMap{}, [&](auto at, const auto& on, auto& loss) {
    const Components<T> of(op.from, at.start);
    loss[0] = 0;
    if (!on[0]) return of.store_zeros(op.gradients);
    const T x = read<T>(op.x, at.start);
    loss[0] = op.weight ? squared_error(op, of, x, read<T>(op.weight, at.start), bins) : bin_cost(op, of, x, bins);
  });
}

// L_n of one variable.
template <class T>
struct NStepVariable {
  const DiscretisedLoss& op;
  int64_t at;
  T loss = 0;

  __device__ NStepVariable(const DiscretisedLoss& of, const General<T>& place) : op(of), at(place.start) {}

  // Gradients by the components are added to those of the draws before.
  __device__ void add(int v, const NStepDraws<T>& draws, bool first) {
    const bool mine = static_cast<int>(threadIdx.x % 32) == v;
    const int64_t variable = __shfl_sync(kWholeWarp, at, v);
    const Components<T> of(op.from, variable);
    const Bins<T> bins{op.from.num_bins, op.from.clip};
    const T x = read<T>(op.x, variable), tau = 1 / sqrt(read<T>(op.alpha, variable)), n = static_cast<T>(op.n_steps);
    LogSum<T> total[NStepDraws<T>::kMost];
#pragma unroll 1
    for (int pass = 0; pass < (any(op.gradients) ? 2 : 1); ++pass) {
#pragma unroll 1
      for (int m = 0; m < of.count(); ++m) {
        const OutputNormal<T> normal = of.normal(m);
        const T log_share = of.log_share(m);
        T by_mean = 0, by_std = 0, by_logit = 0;
        NStepWarp<T> warp(x, normal.mean, normal.std, tau, bins);
        warp.each_draw(draws.eps, draws.count, [&](int i, const WithGradient<T>& of_draw) {
          if (pass == 0) return total[i].add(log_share + of_draw.value);
          const T part = total[i].part(log_share + of_draw.value), weight = draws.weight[i];
          by_mean += weight * part * of_draw.by_mean;
          by_std += weight * part * of_draw.by_std;
          by_logit += weight * (part - exp(log_share));
        });
        if (pass == 1 && mine) of.store(op.gradients, m, -n * by_mean, -n * by_std, -n * by_logit, !first);
      }
    }
    T sum = 0;
#pragma unroll
    for (int i = 0; i < NStepDraws<T>::kMost; ++i) sum += i < draws.count ? draws.weight[i] * total[i].value() : T(0);
    if (mine) loss -= n * sum;
  }
  __device__ T finish(bool counts) {
    if (!counts) Components<T>(op.from, at).store_zeros(op.gradients);
    return loss;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    nstep_kernel(const __grid_constant__ DiscretisedLoss op, const __grid_constant__ Nodes<T> nodes,
                 const Chunks chunks) {
  nstep_losses<T, NStepVariable<T>>(op, nodes, chunks);
}

}  // namespace

template <class T>
void mixture_expected_value(const DiscretisedExpectedValue& op) {
  launch(&expected_value_kernel<T>, grid_for<General<T>>(op.count), kThreads, op);
}

template <class T>
void mixture_choose(const struct Choose& op) {
  launch(&choose_kernel<T>, grid_for<General<T>>(op.count), kThreads, op);
}

template <class T>
void mixture_update(const DiscretisedUpdate& op) {
  launch(&update_kernel<T>, grid_for<General<T>>(op.count), kThreads, op);
}

template <class T>
void mixture_loss(const DiscretisedLoss& op, const Chunks& chunks) {
  if (op.alpha) {
    launch(&nstep_kernel<T>, chunks.blocks, kThreads, op, Nodes<T>(op.draws), chunks);
  } else {
    launch(&loss_kernel<T>, chunks.blocks, kThreads, op, chunks);
  }
}

BFN_INSTANTIATE(mixture_expected_value, const DiscretisedExpectedValue&);
BFN_INSTANTIATE(mixture_choose, const struct Choose&);
BFN_INSTANTIATE(mixture_update, const DiscretisedUpdate&);
BFN_INSTANTIATE(mixture_loss, const DiscretisedLoss&, const Chunks&);

}  // namespace bfn
