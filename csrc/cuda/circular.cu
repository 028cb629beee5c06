#include "../ops/circular.h"

#include "access.h"
#include "loss.h"

namespace bfn {
namespace {

// It is not inlined, since the loop over attempts needs many registers.
template <class T>
BFN_NOINLINE __device__ T drawn_turns(int64_t seed, int64_t index, T concentration) {
  return VonMises<T>(concentration).draw(static_cast<uint64_t>(seed), static_cast<uint64_t>(index), 0);
}

// Reads angles, and converts them to turns.
template <class At, class T, int kCount>
__device__ void load_turns(const At& at, const View& view, double period, T (&turns)[kCount]) {
  at.data(view, turns);
  const T per_unit = static_cast<T>(1 / period);
#pragma unroll
  for (int j = 0; j < kCount; ++j) turns[j] *= per_unit;
}

// Stores the scaled logarithms of concentrations.
template <class At, class T, int kCount>
__device__ void store_log(const At& at, const View& to, const LogScale& scale, const T (&concentration)[kCount]) {
  T logs[kCount];
  const T least = static_cast<T>(scale.least), factor = static_cast<T>(scale.factor);
#pragma unroll
  for (int j = 0; j < kCount; ++j) logs[j] = scaled_log(concentration[j], least, factor);
  at.store_compute(to, logs);
}

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    circular_draw_kernel(const __grid_constant__ CircularDraw op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const int64_t seed = *op.noise.seed;
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    T concentration[kCount], mean[kCount], step[kCount];
    if (op.table) {
      at.noise(op.noise, seed, concentration);
      at.rows(op.step, step);
#pragma unroll
      for (int j = 0; j < kCount; ++j) concentration[j] = quantile_of(op.table, op.rows, step[j], concentration[j]);
    } else {
      at.rows(op.concentration, concentration);
    }
    at.data(op.x, mean);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      mean[j] = turned(mean[j], drawn_turns(seed, at.start + j, concentration[j]), op.period);
    }
    at.store_data(op.mean, mean);
    if (!op.drawn) return;
    if (op.log.factor != 0) return store_log(at, op.drawn, op.log, concentration);
    at.store_compute(op.drawn, concentration);
  });
}

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    circular_step_kernel(const __grid_constant__ CircularStep op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    T sent[kCount], mean[kCount], concentration[kCount], alpha[kCount];
    load_turns(at, op.prediction, op.period, sent);
    load_turns(at, op.mean, op.period, mean);
    at.data(op.concentration, concentration);
    at.rows(op.alpha, alpha);
    if (op.known) {
      T known[kCount];
      bool is_known[kCount];
      load_turns(at, op.known, op.period, known);
      at.mask(op.known_mask, is_known);
#pragma unroll
      for (int j = 0; j < kCount; ++j) sent[j] = is_known[j] ? known[j] : sent[j];
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (op.seed) sent[j] += drawn_turns(*op.seed, at.start + j, alpha[j]);
      CircularState<T> state{mean[j], concentration[j]};
      state.update(sent[j], alpha[j]);
      mean[j] = static_cast<T>(op.period) * state.turns;
      concentration[j] = state.concentration;
    }
    at.store_data(op.new_mean, mean);
    at.store_data(op.new_concentration, concentration);
    if (op.new_log) store_log(at, op.new_log, op.log, concentration);
  });
}

template <class At, CircularCost kCost>
__global__ void __launch_bounds__(kThreads, 2)
    circular_loss_kernel(const __grid_constant__ CircularLoss op, const __grid_constant__ RowMap rows,
                         const typename At::Compute log_period, const Chunks chunks) {
  using T = typename At::Compute;
  const T per_unit = static_cast<T>(1 / op.period);
  reduce_losses<At>(op.to, chunks, rows, [&](auto at, const auto& on, auto& loss) {
    constexpr int kCount = decltype(at)::kCount;
    T x[kCount], prediction[kCount], weight[kCount];
    at.data(op.x, x);
    at.data(op.prediction, prediction);
    if constexpr (kCost == CircularCost::kDensity) {
      at.data(op.weight, weight);
    } else {
      at.rows(op.weight, weight);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const T turns = per_unit * (x[j] - prediction[j]);
      const CircularTerm<T> term = kCost == CircularCost::kCosine ? cosine_loss(turns, weight[j])
                                   : kCost == CircularCost::kSquare
                                       ? squared_angle(turns, weight[j])
                                       : negative_log_density(turns, weight[j], log_period);
      loss[j] = term.value;
      prediction[j] = on[j] ? per_unit * term.by_turns : T(0);
      weight[j] = on[j] ? term.by_weight : T(0);
    }
    if (op.grad_prediction) at.store_compute(op.grad_prediction, prediction);
    if (op.grad_weight) at.store_compute(op.grad_weight, weight);
  });
}

}  // namespace

template <class T>
void circular_draw(const CircularDraw& op) {
  const Layout layout = Layout().data(op.x).data(op.mean).rows(op.drawn).rows(op.concentration).rows(op.step);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&circular_draw_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map());
  });
}

template <class T>
void circular_step(const CircularStep& op) {
  const Layout layout = Layout()
                            .data(op.prediction)
                            .data(op.mean)
                            .data(op.concentration)
                            .data(op.known)
                            .bytes(op.known_mask)
                            .rows(op.alpha)
                            .data(op.new_mean)
                            .data(op.new_concentration)
                            .rows(op.new_log);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&circular_step_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map());
  });
}

template <class T>
void circular_loss(const CircularLoss& op) {
  Layout layout = Layout().data(op.x).data(op.prediction).bytes(op.to.mask).losses(op.to);
  layout = op.cost == CircularCost::kDensity ? layout.data(op.weight) : layout.rows(op.weight);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    const Chunks chunks = chunks_of(op.to, int64_t{kThreads} * At::kCount);
    const auto kernel = op.cost == CircularCost::kCosine   ? &circular_loss_kernel<At, CircularCost::kCosine>
                        : op.cost == CircularCost::kSquare ? &circular_loss_kernel<At, CircularCost::kSquare>
                                                           : &circular_loss_kernel<At, CircularCost::kDensity>;
    launch(kernel, chunks.blocks, kThreads, op, layout.row_map(), static_cast<T>(std::log(op.period)), chunks);
    finish_losses<T>(op.to, chunks);
  });
}

BFN_INSTANTIATE(circular_draw, const CircularDraw&);
BFN_INSTANTIATE(circular_step, const CircularStep&);
BFN_INSTANTIATE(circular_loss, const CircularLoss&);

}  // namespace bfn
