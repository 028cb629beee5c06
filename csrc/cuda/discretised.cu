#include "../ops/discretised.h"

#include "../math/continuous.h"
#include "discretised_loss.h"
#include "mixtures.h"
#include "nstep_bins.h"
#include "solver.h"

namespace bfn {
namespace {

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    output_std_kernel(const __grid_constant__ OutputStd op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  for_grid<At>(op.count, rows, [&](auto at) {
    const Normals<T, decltype(at)::kCount> normals(at, op.from);
    at.store_network(op.out, normals.std);
    if (op.grad) at.store_compute(op.grad, normals.std_by_log_std);
  });
}

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    expected_value_kernel(const __grid_constant__ DiscretisedExpectedValue op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  constexpr int kCount = At::kCount;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  for_grid_in_rounds<At>(op.count, rows, [&](const At& at, bool active) {
    const Normals<T, kCount> normals(at, op.from);
    ExpectedValue<T> k[kCount];
    expected_values(normals.mean, normals.std, bins, k);
    if (!active) return;
    T out[kCount], by_mean[kCount], by_std[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      out[j] = k[j].value();
      by_mean[j] = k[j].by_mean;
      by_std[j] = k[j].by_std;
    }
    at.store_network(op.out, out);
    normals.store_gradients(at, op.gradients, by_mean, by_std);
  });
}

// The values that a pack of variables sends.
template <Choice kChoice, class T, int kCount>
__device__ void values_of(const Normals<T, kCount>& from, const T (&eps)[kCount], Bins<T> bins, T (&value)[kCount]) {
  ExpectedValue<T> k[kCount];
  if constexpr (kChoice == Choice::kMean) expected_values(from.mean, from.std, bins, k);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if constexpr (kChoice == Choice::kMean) {
      value[j] = k[j].value();
    } else if constexpr (kChoice == Choice::kMode) {
      value[j] = mode(from.mean[j], from.std[j], bins);
    } else {
      value[j] = bins.quantised(from.mean[j] + from.std[j] * eps[j]);
    }
  }
}

// Calls f(at, active) for all packs. For Choice::kMean the threads of a block exchange variables inside f. So threads
// without a pack call f, too, with active = false, and must not store anything.
template <class At, Choice kChoice, class F>
__device__ void for_choices(int64_t count, const RowMap& rows, F&& f) {
  if constexpr (kChoice == Choice::kMean) {
    for_grid_in_rounds<At>(count, rows, f);
  } else {
    for_grid<At>(count, rows, [&](auto at) { f(at, true); });
  }
}

template <class At, Choice kChoice>
__global__ void __launch_bounds__(kThreads, 2)
    choose_kernel(const __grid_constant__ Choose op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  const int64_t seed = seed_of(op.sent.draw);
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    const Normals<T, kCount> from(at, op.from);
    T value[kCount], eps[kCount] = {};
    if constexpr (kChoice == Choice::kSample) at.noise(op.sent.draw, seed, eps);
    values_of<kChoice>(from, eps, bins, value);
    at.store_network(op.out, value);
  });
}

template <class At, Choice kChoice>
__global__ void __launch_bounds__(kThreads, 2)
    update_kernel(const __grid_constant__ DiscretisedUpdate op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  const int64_t seed = seed_of(op.noise), draw_seed = seed_of(op.sent.draw);
  for_choices<At, kChoice>(op.count, rows, [&](auto at, bool active) {
    constexpr int kCount = decltype(at)::kCount;
    T value[kCount], eps[kCount] = {}, state[kCount], keep[kCount], take[kCount], noise_scale[kCount];
    {
      const Normals<T, kCount> from(at, op.from);
      if constexpr (kChoice == Choice::kSample) at.noise(op.sent.draw, draw_seed, eps);
      values_of<kChoice>(from, eps, bins, value);
    }
    if (!active) return;
    replace_known(at, op.sent.known, op.sent.known_mask, value);
    if (op.solver.predicts) extrapolate(at, op.solver, value);
    at.data(op.from.mean, state);
    at.rows(op.solver.keep, keep, T(1));
    at.rows(op.solver.take, take);
    at.rows(op.solver.std, noise_scale);
    if (op.noise.any()) at.noise(op.noise, seed, eps);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      value[j] = updated_mean(keep[j], state[j], take[j], value[j], noise_scale[j], eps[j]);
    }
    at.store_data(op.out, value);
  });
}

// L_n (113-119).
template <class T, int kDraws>
__global__ void __launch_bounds__(kThreads, 1)
    nstep_kernel(const __grid_constant__ DiscretisedLoss op, const __grid_constant__ Nodes<T> nodes,
                 const Chunks chunks) {
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  reduce_losses<General<T>>(op.to, chunks, RowMap{}, [&](auto at, const auto& on, auto& loss) {
    Normals<T, 1> normal(at, op.from);
    T by_mean[1] = {}, by_std[1] = {};
    loss[0] = 0;
    if (on[0]) {
      const T tau = 1 / sqrt(read<T>(op.alpha, at.start)), n = static_cast<T>(op.n_steps);
      const NStepNormal<T> terms(read<T>(op.x, at.start), normal.mean[0], normal.std[0], tau, bins);
      for_draws<T, kDraws>(op, nodes, at, [&](auto& sums, bool) {
        sums.sum(terms);
#pragma unroll
        for (int i = 0; i < kDraws; ++i) {
          const T weight = -n * sums.weight[i];
          loss[0] += weight * sums.of(i).value;
          by_mean[0] += weight * sums.of(i).by_mean;
          by_std[0] += weight * sums.of(i).by_std;
        }
      });
    } else {
      normal.mean_by_prediction[0] = normal.std_by_log_std[0] = 0;
    }
    normal.store_gradients(at, op.gradients, by_mean, by_std);
  });
}

// Calls f(Tag<At>, choice). For a mode a thread handles one variable at a time, since each mode takes much work.
template <class At, class F>
void with_choice(Choice choice, F&& f) {
  if (choice == Choice::kSample) return f(Tag<At>{}, std::integral_constant<Choice, Choice::kSample>{});
  if (choice == Choice::kMean) return f(Tag<At>{}, std::integral_constant<Choice, Choice::kMean>{});
  f(Tag<typename At::One>{}, std::integral_constant<Choice, Choice::kMode>{});
}

}  // namespace

template <class T>
void output_std(const OutputStd& op) {
  const Layout layout = layout_of(op.from).network(op.out);
  const auto run = [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&output_std_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map());
  };
  // Callers have already converted log_std to the compute type. So only float has a Dense path.
  if constexpr (sizeof(T) == sizeof(float)) {
    if (layout.dense() && layout.data_type() == DType::kFloat) return run(Tag<Dense<float, float>>{});
  }
  run(Tag<General<T>>{});
}

template <class T>
void expected_value(const DiscretisedExpectedValue& op) {
  if (op.from.mixture_logits) return mixture_expected_value<T>(op);
  const Layout layout = layout_of(op.from).network(op.out).whole_packs(op.count);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&expected_value_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map());
  });
}

template <class T>
void choose(const Choose& op) {
  if (op.from.mixture_logits) return mixture_choose<T>(op);
  const Layout layout = layout_of(op.from).network(op.out).noise(op.sent.draw);
  with_access<T>(layout, [&](auto tag) {
    with_choice<typename decltype(tag)::type>(op.sent.choice, [&](auto at, auto choice) {
      using At = typename decltype(at)::type;
      constexpr Choice kChoice = decltype(choice)::value;
      if constexpr (kChoice != Choice::kMean) {  // the op `expected_value` computes means
        launch(&choose_kernel<At, kChoice>, grid_for<At>(op.count), kThreads, op, layout.row_map());
      }
    });
  });
}

template <class T>
void discretised_update(const DiscretisedUpdate& op) {
  if (op.from.mixture_logits) return mixture_update<T>(op);
  Layout layout =
      layout_of(op.from).data(op.sent.known).data(op.out).bytes(op.sent.known_mask).noise(op.noise).noise(op.sent.draw);
  with_solver(layout, op.solver);
  if (op.sent.choice == Choice::kMean) layout.whole_packs(op.count);
  with_network_access<T>(layout, [&](auto tag) {
    with_choice<typename decltype(tag)::type>(op.sent.choice, [&](auto at, auto choice) {
      using At = typename decltype(at)::type;
      launch(&update_kernel<At, decltype(choice)::value>, grid_for<At>(op.count), kThreads, op, layout.row_map());
    });
  });
}

template <class T>
void discretised_loss(const DiscretisedLoss& op) {
  Chunks chunks = chunks_of(op.to, kThreads);
  if (op.from.mixture_logits && op.alpha) {
    mixture_nstep_loss<T>(op, chunks);
  } else if (op.from.mixture_logits) {
    chunks = chunks_of(op.to, variables_of_chunk(op.from));
    mixture_loss<T>(op, chunks);
  } else if (op.alpha) {
    with_draws<T>(op.draws, [&](auto draws) {
      launch(&nstep_kernel<T, decltype(draws)::value>, chunks.blocks, kThreads, op, Nodes<T>(op.draws), chunks);
    });
  } else {
    Layout layout = layout_of(op.from).data(op.x).rows(op.weight).bytes(op.to.mask).losses(op.to);
    if (op.weight) layout.whole_packs(op.to.batch * op.to.per_batch);
    with_network_access<T>(layout, [&](auto tag) {
      using At = typename decltype(tag)::type;
      chunks = chunks_of(op.to, int64_t{kThreads} * At::kCount);
      const auto kernel = op.weight ? &loss_kernel<At, true> : &loss_kernel<At, false>;
      launch(kernel, chunks.blocks, kThreads, op, layout.row_map(), chunks);
    });
  }
  finish_losses<T>(op.to, chunks);
}

BFN_INSTANTIATE(output_std, const OutputStd&);
BFN_INSTANTIATE(expected_value, const DiscretisedExpectedValue&);
BFN_INSTANTIATE(choose, const Choose&);
BFN_INSTANTIATE(discretised_update, const DiscretisedUpdate&);
BFN_INSTANTIATE(discretised_loss, const DiscretisedLoss&);

}  // namespace bfn
