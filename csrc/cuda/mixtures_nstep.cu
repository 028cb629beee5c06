#include "../math/mixtures.h"
#include "loss.h"
#include "mixtures.h"
#include "nstep_bins.h"

namespace bfn {
namespace {

// The components of one variable. Each call reads the numbers of its component from memory again. An object keeps only
// the numbers that all components of the variable have in common.
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
  __device__ OutputNormal<T> normal(int m) const {
    const T prediction = read<T>(from_.prediction, first_ + m), log_std = read<T>(from_.log_std, first_ + m);
    return output_normal(from_.kind, from_.limits.as<T>(), prediction, log_std, mean_, mean_scale_, noise_scale_);
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

// Returns what some draws add to the loss of a variable. If `first`, they are its first draws, whose gradients are
// stored. The gradients of later draws are added to the stored ones.
template <class T, int kDraws>
__device__ T nstep_loss(const DiscretisedLoss& op, const Components<T>& components, T x, T tau, Bins<T> bins,
                        NStepSums<T, kDraws>& sums, bool first) {
  const T n = static_cast<T>(op.n_steps);
  LogSum<T> total[kDraws];
  // The first pass makes `total`, the sum of each draw over components. The second pass makes gradients from it.
#pragma unroll 1
  for (int pass = 0; pass < (op.gradients.any() ? 2 : 1); ++pass) {
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
void mixture_nstep_loss(const DiscretisedLoss& op, const Chunks& chunks) {
  with_draws<T>(op.draws, [&](auto draws) {
    launch(&nstep_kernel<T, decltype(draws)::value>, chunks.blocks, kThreads, op, Nodes<T>(op.draws), chunks);
  });
}

BFN_INSTANTIATE(mixture_nstep_loss, const DiscretisedLoss&, const Chunks&);

}  // namespace bfn
