#include "../ops/discretised.h"

#include "../math/bin_prob.h"
#include "../math/expected_value.h"
#include "access.h"
#include "loss.h"
#include "mixtures.h"
#include "nstep_bins.h"

namespace bfn {
namespace {

// The normals that the network put out for a pack of variables.
template <class T, int kCount>
struct Normals {
  OutputNormal<T> each[kCount];

  template <class At>
  __device__ Normals(const At& at, const NetworkOutput& from) {
    T prediction[kCount], log_std[kCount], mean[kCount], a[kCount], b[kCount];
    at.network(from.prediction, prediction);
    at.network(from.log_std, log_std);
    at.data(from.mean, mean);
    at.rows(from.a, a);
    at.rows(from.b, b);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      each[j] = output_normal(from.kind, prediction[j], log_std[j], mean[j], a[j], b[j]);
    }
  }
};

template <class At>
__device__ void store_gradients(const At& at, const NetworkGradients& to,
                                const OutputNormal<typename At::Compute>& normal, typename At::Compute by_mean,
                                typename At::Compute by_std) {
  using T = typename At::Compute;
  const T by_prediction[1] = {by_mean * normal.mean_by_prediction}, by_log_std[1] = {by_std * normal.std_by_log_std};
  if (to.by_prediction) at.store_own(to.by_prediction, by_prediction);
  if (to.by_log_std) at.store_own(to.by_log_std, by_log_std);
}

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    expected_value_kernel(const __grid_constant__ DiscretisedExpectedValue op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  for_grid<At>(op.count, rows, [&](auto at) {
    const Normals<T, 1> from(at, op.from);
    const auto k = expected_value(from.each[0].mean, from.each[0].std, bins);
    const T out[1] = {k.base + k.shift};
    at.store_network(op.out, out);
    store_gradients(at, op.gradients, from.each[0], k.by_mean, k.by_std);
  });
}

template <Choice kChoice, class T>
__device__ T value_of(const OutputNormal<T>& normal, T eps, Bins<T> bins) {
  if constexpr (kChoice == Choice::kMean) {
    const auto k = expected_value(normal.mean, normal.std, bins);
    return k.base + k.shift;
  } else if constexpr (kChoice == Choice::kMode) {
    return mode(normal.mean, normal.std, bins);
  } else {
    return bins.centre(bins.index(clamp(normal.mean + normal.std * eps, T(-1), T(1))));
  }
}

template <class At, Choice kChoice>
__global__ void __launch_bounds__(kThreads, 2)
    choose_kernel(const __grid_constant__ struct Choose op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  const int64_t seed = op.draw.seed ? *op.draw.seed : 0;
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    const Normals<T, kCount> from(at, op.from);
    T value[kCount], eps[kCount] = {};
    if constexpr (kChoice == Choice::kSample) at.noise(op.draw, seed, eps);
#pragma unroll
    for (int j = 0; j < kCount; ++j) value[j] = value_of<kChoice>(from.each[j], eps[j], bins);
    at.store_network(op.out, value);
  });
}

template <class At, Choice kChoice>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const __grid_constant__ DiscretisedUpdate op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  const int64_t seed = op.noise.seed ? *op.noise.seed : 0, draw_seed = op.draw.seed ? *op.draw.seed : 0;
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    T value[kCount], eps[kCount] = {}, state[kCount], a[kCount], b[kCount], std[kCount];
    {
      const Normals<T, kCount> from(at, op.from);
      if constexpr (kChoice == Choice::kSample) at.noise(op.draw, draw_seed, eps);
#pragma unroll
      for (int j = 0; j < kCount; ++j) value[j] = value_of<kChoice>(from.each[j], eps[j], bins);
    }
    if (op.known) {
      T known[kCount];
      bool given[kCount];
      at.data(op.known, known);
      at.mask(op.known_mask, given);
#pragma unroll
      for (int j = 0; j < kCount; ++j) value[j] = given[j] ? known[j] : value[j];
    }
    at.data(op.state, state);
    at.rows(op.a, a);
    at.rows(op.b, b);
    at.rows(op.std, std);
    at.noise(op.noise, seed, eps);
#pragma unroll
    for (int j = 0; j < kCount; ++j) value[j] = fused(std[j], eps[j], fused(b[j], value[j], a[j] * state[j]));
    at.store_data(op.out, value);
  });
}

// L_inf where there is a weight, else -ln p of the bin of x.
template <class At, bool kSquared>
__global__ void __launch_bounds__(kThreads, 2)
    loss_kernel(const __grid_constant__ DiscretisedLoss op, const __grid_constant__ RowMap rows, const Chunks chunks) {
  using T = typename At::Compute;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  reduce_losses<At>(op.to, chunks, rows, [&](auto at, const auto& on, auto& loss) {
    const Normals<T, 1> from(at, op.from);
    T x[1], by_mean, by_std;
    at.data(op.x, x);
    const T mean = from.each[0].mean, std = from.each[0].std;
    if constexpr (kSquared) {
      T weight[1];
      at.rows(op.weight, weight);
      const auto k = expected_value(mean, std, bins);
      const T error = (x[0] - k.base) - k.shift, slope = -2 * weight[0] * error;
      loss[0] = weight[0] * error * error;
      by_mean = slope * k.by_mean;
      by_std = slope * k.by_std;
    } else {
      const auto p = log_bin_prob(bins.index(x[0]), mean, std, bins);
      loss[0] = -p.value;
      by_mean = -p.by_mean;
      by_std = -p.by_std;
    }
    if (!on[0]) by_mean = by_std = 0;
    OutputNormal<T> normal = from.each[0];
    if (!on[0]) normal.mean_by_prediction = normal.std_by_log_std = 0;
    store_gradients(at, op.gradients, normal, by_mean, by_std);
  });
}

// L_n of one variable.
template <class T>
struct NStepVariable {
  const DiscretisedLoss& op;
  General<T> at;
  OutputNormal<T> normal;
  T x, alpha;
  WithGradient<T> sum{T(0), T(0), T(0)};

  __device__ NStepVariable(const DiscretisedLoss& loss, const General<T>& place)
      : op(loss),
        at(place),
        normal(Normals<T, 1>(at, op.from).each[0]),
        x(read<T>(op.x, at.start)),
        alpha(read<T>(op.alpha, at.start)) {}

  __device__ void add(int v, const NStepDraws<T>& draws, bool) {
    const Bins<T> bins{op.from.num_bins, op.from.clip};
    NStepWarp<T> warp(__shfl_sync(kWholeWarp, x, v), __shfl_sync(kWholeWarp, normal.mean, v),
                      __shfl_sync(kWholeWarp, normal.std, v), 1 / sqrt(__shfl_sync(kWholeWarp, alpha, v)), bins);
    WithGradient<T> added{T(0), T(0), T(0)};
    warp.each_draw(draws.eps, draws.count, [&](int i, const WithGradient<T>& of_draw) {
      added.value += draws.weight[i] * of_draw.value;
      added.by_mean += draws.weight[i] * of_draw.by_mean;
      added.by_std += draws.weight[i] * of_draw.by_std;
    });
    if (static_cast<int>(threadIdx.x % 32) != v) return;
    sum.value += added.value;
    sum.by_mean += added.by_mean;
    sum.by_std += added.by_std;
  }
  __device__ T finish(bool counts) {
    const T n = static_cast<T>(op.n_steps);
    if (!counts) normal.mean_by_prediction = normal.std_by_log_std = 0;
    store_gradients(at, op.gradients, normal, counts ? -n * sum.by_mean : T(0), counts ? -n * sum.by_std : T(0));
    return counts ? -n * sum.value : T(0);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    nstep_kernel(const __grid_constant__ DiscretisedLoss op, const __grid_constant__ Nodes<T> nodes,
                 const Chunks chunks) {
  nstep_losses<T, NStepVariable<T>>(op, nodes, chunks);
}

Layout layout_of(const NetworkOutput& from) {
  return Layout().network(from.prediction).network(from.log_std).data(from.mean).rows(from.a).rows(from.b);
}

// f(Tag<At>, choice) by packs where a draw is quick, one by one where a sum over bins is the work.
template <class At, class F>
void with_choice(Choice choice, F&& f) {
  using One = typename At::One;
  if (choice == Choice::kSample) return f(Tag<At>{}, std::integral_constant<Choice, Choice::kSample>{});
  if (choice == Choice::kMode) return f(Tag<One>{}, std::integral_constant<Choice, Choice::kMode>{});
  f(Tag<One>{}, std::integral_constant<Choice, Choice::kMean>{});
}

}  // namespace

template <class T>
void expected_value(const DiscretisedExpectedValue& op) {
  if (op.from.mixture_logits) return mixture_expected_value<T>(op);
  const Layout layout = layout_of(op.from).network(op.out);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type::One;
    launch(&expected_value_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map());
  });
}

template <class T>
void choose(const struct Choose& op) {
  if (op.from.mixture_logits) return mixture_choose<T>(op);
  const Layout layout = layout_of(op.from).network(op.out).noise(op.draw);
  with_access<T>(layout, [&](auto tag) {
    with_choice<typename decltype(tag)::type>(op.choice, [&](auto at, auto choice) {
      using At = typename decltype(at)::type;
      launch(&choose_kernel<At, decltype(choice)::value>, grid_for<At>(op.count), kThreads, op, layout.row_map());
    });
  });
}

template <class T>
void discretised_update(const DiscretisedUpdate& op) {
  if (op.from.mixture_logits) return mixture_update<T>(op);
  const Layout layout = layout_of(op.from)
                            .data(op.state)
                            .data(op.known)
                            .data(op.out)
                            .rows(op.a)
                            .rows(op.b)
                            .rows(op.std)
                            .bytes(op.known_mask)
                            .noise(op.noise)
                            .noise(op.draw);
  with_network_access<T>(layout, [&](auto tag) {
    with_choice<typename decltype(tag)::type>(op.choice, [&](auto at, auto choice) {
      using At = typename decltype(at)::type;
      launch(&update_kernel<At, decltype(choice)::value>, grid_for<At>(op.count), kThreads, op, layout.row_map());
    });
  });
}

template <class T>
void discretised_loss(const DiscretisedLoss& op) {
  const Chunks chunks = chunks_of(op.to, kThreads);
  const Layout layout = layout_of(op.from).data(op.x).rows(op.weight).bytes(op.to.mask);
  if (op.from.mixture_logits) {
    mixture_loss<T>(op, chunks);
  } else if (op.alpha) {
    launch(&nstep_kernel<T>, chunks.blocks, kThreads, op, Nodes<T>(op.nodes, op.node_weights, op.num_nodes), chunks);
  } else {
    with_network_access<T>(layout, [&](auto tag) {
      using At = typename decltype(tag)::type::One;
      launch(op.weight ? &loss_kernel<At, true> : &loss_kernel<At, false>, chunks.blocks, kThreads, op,
             layout.row_map(), chunks);
    });
  }
  finish_losses<T>(op.to, chunks);
}

#define BFN_INSTANTIATE(T)                                          \
  template void expected_value<T>(const DiscretisedExpectedValue&); \
  template void choose<T>(const struct Choose&);                    \
  template void discretised_update<T>(const DiscretisedUpdate&);    \
  template void discretised_loss<T>(const DiscretisedLoss&);
BFN_INSTANTIATE(float)
BFN_INSTANTIATE(double)
#undef BFN_INSTANTIATE

}  // namespace bfn
