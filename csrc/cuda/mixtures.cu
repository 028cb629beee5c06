#include "mixtures.h"

#include "../math/bin_prob.h"
#include "../math/continuous.h"
#include "../math/mixtures.h"
#include "access.h"
#include "nstep_bins.h"
#include "solver.h"

namespace bfn {
namespace {

// The components of one variable. Each call reads a component's numbers from memory; only shared numbers are kept.
template <class T>
class Components {
 public:
  __device__ Components(const NetworkOutput& from, int64_t variable)
      : from_(from),
        first_(variable * from.components),
        mean_(read<T>(from.mean, variable)),
        mean_scale_(read<T>(from.mean_scale, variable)),
        noise_scale_(read<T>(from.noise_scale, variable)),
        log_shares_(sum_of_logits()) {}

  __device__ int count() const { return static_cast<int>(from_.components); }
  __device__ T log_share(int m) const { return log_shares_(logit(m)); }
  __device__ T share(int m) const { return exp(log_share(m)); }
  __device__ OutputNormal<T> normal(int m) const {
    const T prediction = read<T>(from_.prediction, first_ + m), log_std = read<T>(from_.log_std, first_ + m);
    return output_normal(from_.kind, from_.limits, prediction, log_std, mean_, mean_scale_, noise_scale_);
  }
  // sum_m pi_m f(m)
  template <class F>
  __device__ T mean_of(F&& f) const {
    T sum = 0;
    for (int m = 0; m < count(); ++m) sum += share(m) * f(m);
    return sum;
  }
  // Turns the gradients by the mean, std and logit of component m into gradients by its predictions and logit, and
  // stores them. With `add` it adds them to the stored numbers.
  __device__ void store(const NetworkGradients& to, int m, ComponentGradient<T> by, bool add = false) const {
    const OutputNormal<T> through = normal(m);
    put(to.grad_prediction, m, by.by_mean * through.mean_by_prediction, add);
    put(to.grad_log_std, m, by.by_std * through.std_by_log_std, add);
    put(to.grad_mixture_logits, m, by.by_logit, add);
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
  T mean_, mean_scale_, noise_scale_;
  LogShares<T> log_shares_;

  __device__ T logit(int m) const { return read<T>(from_.mixture_logits, first_ + m); }
  __device__ LogSum<T> sum_of_logits() const {
    LogSum<T> total;
    for (int m = 0; m < count(); ++m) total.add(logit(m));
    return total;
  }
  __device__ void put(const View& view, int m, T value, bool add) const {
    if (view) write(view, first_ + m, (add ? read<T>(view, first_ + m) : T(0)) + value);
  }
};

__device__ bool any(const NetworkGradients& to) {
  return to.grad_prediction || to.grad_log_std || to.grad_mixture_logits;
}

template <class T>
__device__ ExpectedValue<T> expected_of(const Components<T>& components, int m, Bins<T> bins) {
  const OutputNormal<T> normal = components.normal(m);
  return expected_value(normal.mean, normal.std, bins);
}

template <class T>
__device__ T mixture_mean(const Components<T>& components, Bins<T> bins) {
  return components.mean_of([&](int m) { return expected_of(components, m, bins).value(); });
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    expected_value_kernel(const __grid_constant__ DiscretisedExpectedValue op) {
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  for_grid<General<T>>(op.count, RowMap{}, [&](auto at) {
    const Components<T> components(op.from, at.start);
    const T out[1] = {mixture_mean(components, bins)};
    at.store_network(op.out, out);
    for (int m = 0; any(op.gradients) && m < components.count(); ++m) {
      const auto k = expected_of(components, m, bins);
      components.store(op.gradients, m, mean_gradient(components.share(m), k, k.value() - out[0]));
    }
  });
}

template <class T>
__device__ T likeliest(const Components<T>& components, Bins<T> bins) {
  return mixture_mode(bins, [&](T bin) {
    return components.mean_of([&](int m) {
      const OutputNormal<T> normal = components.normal(m);
      return exp(log_bin_prob(bin, normal.mean, normal.std, bins).value);
    });
  });
}

template <class T>
__device__ T value_of(const NetworkOutput& from, const Sent& sent, const Noise& component, const General<T>& at) {
  const Components<T> components(from, at.start);
  const Bins<T> bins{from.num_bins, from.clip};
  if (sent.choice == Choice::kMean) return mixture_mean(components, bins);
  if (sent.choice == Choice::kMode) return likeliest(components, bins);
  T eps[1];
  at.noise(sent.draw, seed_of(sent.draw), eps);
  const T uniform = one_uniform<T>(component, seed_of(component), at.start);
  const int m =
      drawn_component(components.count(), uniform, [&](int component) { return components.share(component); });
  if (m < 0) return kNaN<T>;
  const OutputNormal<T> normal = components.normal(m);
  return bins.quantised(normal.mean + normal.std * eps[0]);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) choose_kernel(const __grid_constant__ Choose op) {
  for_grid<General<T>>(op.count, RowMap{}, [&](auto at) {
    const T value[1] = {value_of(op.from, op.sent, op.component, at)};
    at.store_network(op.out, value);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) update_kernel(const __grid_constant__ DiscretisedUpdate op) {
  const int64_t seed = seed_of(op.noise);
  for_grid<General<T>>(op.count, RowMap{}, [&](auto at) {
    T value[1] = {value_of(op.from, op.sent, op.component, at)}, eps[1] = {};
    if (read<int>(op.sent.known_mask, at.start) != 0) value[0] = read<T>(op.sent.known, at.start);
    if (op.solver.predicts) extrapolate(at, op.solver, value);
    if (op.noise.any()) at.noise(op.noise, seed, eps);
    const T keep = read<T>(op.solver.keep, at.start, T(1)), take = read<T>(op.solver.take, at.start);
    const T noise_scale = read<T>(op.solver.std, at.start);
    const T out[1] = {updated_mean(keep, read<T>(op.from.mean, at.start), take, value[0], noise_scale, eps[0])};
    at.store_data(op.out, out);
  });
}

// L_inf (101).
template <class T>
__device__ T squared_error(const DiscretisedLoss& op, const Components<T>& components, T x, T weight, Bins<T> bins) {
  const T error = components.mean_of([&](int m) { return expected_of(components, m, bins).error(x); });
  const SquaredError<T> cost(weight, error);
  for (int m = 0; any(op.gradients) && m < components.count(); ++m) {
    const auto k = expected_of(components, m, bins);
    components.store(op.gradients, m, mean_gradient(cost.slope * components.share(m), k, error - k.error(x)));
  }
  return cost.loss;
}

// The cost -ln p of the bin of x (107-109).
template <class T>
__device__ T bin_cost(const DiscretisedLoss& op, const Components<T>& components, T x, Bins<T> bins) {
  const auto log_p = [&](int m) {
    const OutputNormal<T> normal = components.normal(m);
    return log_bin_prob(bins.index(x), normal.mean, normal.std, bins);
  };
  LogSum<T> total;
  for (int m = 0; m < components.count(); ++m) total.add(components.log_share(m) + log_p(m).value);
  for (int m = 0; any(op.gradients) && m < components.count(); ++m) {
    const auto p = log_p(m);
    const T posterior = total.share(components.log_share(m) + p.value);
    components.store(op.gradients, m, log_sum_gradient(T(-1), posterior, components.share(m), p));
  }
  return -total.value();
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    loss_kernel(const __grid_constant__ DiscretisedLoss op, const Chunks chunks) {
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  reduce_losses<General<T>>(op.to, chunks, RowMap{}, [&](auto at, const auto& on, auto& loss) {
    const Components<T> components(op.from, at.start);
    loss[0] = 0;
    if (!on[0]) return components.store_zeros(op.gradients);
    const T x = read<T>(op.x, at.start);
    loss[0] = op.weight ? squared_error(op, components, x, read<T>(op.weight, at.start), bins)
                        : bin_cost(op, components, x, bins);
  });
}

// Returns what some draws add to the loss of a variable. If `first`, they are its first draws, whose gradients are
// stored. The gradients of later draws are added to the stored ones.
template <class T, int kDraws>
__device__ T nstep_loss(const DiscretisedLoss& op, const Components<T>& components, T x, T tau, Bins<T> bins,
                        NStepSums<T, kDraws>& sums, bool first) {
  const T n = static_cast<T>(op.n_steps);
  LogSum<T> total[kDraws];
  // The first pass makes `total`, the sum of each draw over components. The second pass makes gradients from it.
#pragma unroll 1
  for (int pass = 0; pass < (any(op.gradients) ? 2 : 1); ++pass) {
#pragma unroll 1
    for (int m = 0; m < components.count(); ++m) {
      const OutputNormal<T> normal = components.normal(m);
      const T log_share = components.log_share(m);
      ComponentGradient<T> gradient{T(0), T(0), T(0)};
      sums.sum(NStepNormal<T>(x, normal.mean, normal.std, tau, bins));
#pragma unroll
      for (int i = 0; i < kDraws; ++i) {
        if (pass == 0) {
          total[i].add(log_share + sums.of(i).value);
          continue;
        }
        const T posterior = total[i].share(log_share + sums.of(i).value);
        const auto by = log_sum_gradient(-n * sums.weight[i], posterior, exp(log_share), sums.of(i));
        gradient.by_mean += by.by_mean;
        gradient.by_std += by.by_std;
        gradient.by_logit += by.by_logit;
      }
      if (pass == 1) components.store(op.gradients, m, gradient, !first);
    }
  }
  T sum = 0;
#pragma unroll
  for (int i = 0; i < kDraws; ++i) sum += sums.weight[i] * total[i].value();
  return -n * sum;
}

// L_n (113-119).
template <class T, int kDraws>
__global__ void __launch_bounds__(kThreads, 1)
    nstep_kernel(const __grid_constant__ DiscretisedLoss op, const __grid_constant__ Nodes<T> nodes,
                 const Chunks chunks) {
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  reduce_losses<General<T>>(op.to, chunks, RowMap{}, [&](auto at, const auto& on, auto& loss) {
    const Components<T> components(op.from, at.start);
    loss[0] = 0;
    if (!on[0]) return components.store_zeros(op.gradients);
    const T x = read<T>(op.x, at.start), tau = 1 / sqrt(read<T>(op.alpha, at.start));
    for_draws<T, kDraws>(op, nodes, at, [&](auto& sums, bool first) {
      loss[0] += nstep_loss(op, components, x, tau, bins, sums, first);
    });
  });
}

}  // namespace

template <class T>
void mixture_expected_value(const DiscretisedExpectedValue& op) {
  launch(&expected_value_kernel<T>, grid_for<General<T>>(op.count), kThreads, op);
}

template <class T>
void mixture_choose(const Choose& op) {
  launch(&choose_kernel<T>, grid_for<General<T>>(op.count), kThreads, op);
}

template <class T>
void mixture_update(const DiscretisedUpdate& op) {
  launch(&update_kernel<T>, grid_for<General<T>>(op.count), kThreads, op);
}

template <class T>
void mixture_loss(const DiscretisedLoss& op, const Chunks& chunks) {
  if (op.alpha) {
    with_draws<T>(op.draws, [&](auto draws) {
      launch(&nstep_kernel<T, decltype(draws)::value>, chunks.blocks, kThreads, op, Nodes<T>(op.draws), chunks);
    });
  } else {
    launch(&loss_kernel<T>, chunks.blocks, kThreads, op, chunks);
  }
}

BFN_INSTANTIATE(mixture_expected_value, const DiscretisedExpectedValue&);
BFN_INSTANTIATE(mixture_choose, const Choose&);
BFN_INSTANTIATE(mixture_update, const DiscretisedUpdate&);
BFN_INSTANTIATE(mixture_loss, const DiscretisedLoss&, const Chunks&);

}  // namespace bfn
