#include "mixtures.h"

#include "../math/continuous.h"
#include "mixture_tile.h"
#include "solver.h"

namespace bfn {
namespace {

// Calls f(start) for the first variable of each tile that the block handles.
template <class T, class F>
__device__ void for_tiles(int64_t count, const TileShape<T>& shape, F&& f) {
  const int64_t step = int64_t{gridDim.x} * shape.variables;
#pragma unroll 1
  for (int64_t start = int64_t{blockIdx.x} * shape.variables; start < count; start += step) f(start);
}

template <class At>
__global__ void __launch_bounds__(kTileThreads, 4)
    expected_value_kernel(const __grid_constant__ DiscretisedExpectedValue op,
                          const __grid_constant__ TileShape<typename At::Compute> shape,
                          const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  __shared__ TileMemory<T> memory;
  for_tiles(op.count, shape, [&](int64_t start) {
    const Tile<At> tile(op.from, shape, rows, start, op.count, memory);
    if (tile.active) tile.prepare(T(0));
    tile.evaluate_errors();
    if (tile.active) {
      const T out[1] = {-tile.mean_error([](T) { return T(1); })};
      tile.at.store_network(op.out, out);
    }
    tile.template store<true>(op.gradients);
  });
}

// Calls f(at, value) for each variable. `value` is what the variable sends.
template <class At, bool kSample, class F>
__device__ void for_values(int64_t count, const NetworkOutput& from, const Sent& sent, const Noise& component,
                           const TileShape<typename At::Compute>& shape, const RowMap& rows, F&& f) {
  using T = typename At::Compute;
  const Bins<T> bins{from.num_bins, from.clip};
  if constexpr (kSample) {
    __shared__ T logits[kLogitTileSize + kTileThreads];
    const int64_t seed = seed_of(sent.draw), component_seed = seed_of(component);
    for_tiles(count, shape, [&](int64_t start) {
      const Components<At> tile(from, shape, rows, start, count, logits);
      for (int i = threadIdx.x; i < tile.size; i += kTileThreads) tile.read_logit(i);
      __syncthreads();
      if (tile.active) {
        T eps[1], uniform[1], value[1] = {kNaN<T>};
        tile.at.noise(sent.draw, seed, eps);
        tile.at.uniforms(component, component_seed, uniform);
        const T factor = tile.exponentiate([](int, T) {});
        const int m = drawn_component(shape.components, uniform[0], [&](int k) { return factor * tile.logit[k]; });
        if (m >= 0) {
          const OutputNormal<T> of =
              tile.normal(static_cast<int>(threadIdx.x) * shape.components + m, [&] { return tile.scales(); });
          value[0] = bins.quantised(of.mean + of.std * eps[0]);
        }
        f(tile.at, value);
      }
      __syncthreads();
    });
  } else {
    __shared__ TileMemory<T> memory;
    for_tiles(count, shape, [&](int64_t start) {
      const Tile<At> tile(from, shape, rows, start, count, memory);
      T value[1] = {T(0)};
      if (tile.active) tile.prepare(T(0));
      if (sent.choice == Choice::kMode) {
        value[0] = tile.likeliest();
      } else {
        tile.evaluate_errors();
        if (tile.active) value[0] = -tile.mean_error([](T) { return T(1); });
      }
      if (tile.active) f(tile.at, value);
    });
  }
}

template <class At, bool kSample>
__global__ void __launch_bounds__(kTileThreads, 4)
    choose_kernel(const __grid_constant__ Choose op, const __grid_constant__ TileShape<typename At::Compute> shape,
                  const __grid_constant__ RowMap rows) {
  for_values<At, kSample>(op.count, op.from, op.sent, op.component, shape, rows,
                          [&](const At& at, auto& value) { at.store_network(op.out, value); });
}

template <class At, bool kSample>
__global__ void __launch_bounds__(kTileThreads, 4)
    update_kernel(const __grid_constant__ DiscretisedUpdate op,
                  const __grid_constant__ TileShape<typename At::Compute> shape, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const int64_t seed = seed_of(op.noise);
  for_values<At, kSample>(op.count, op.from, op.sent, op.component, shape, rows, [&](const At& at, auto& value) {
    T eps[1] = {}, state[1], keep[1], take[1], noise_scale[1];
    replace_known(at, op.sent.known, op.sent.known_mask, value);
    if (op.solver.predicts) extrapolate(at, op.solver, value);
    if (op.noise.any()) at.noise(op.noise, seed, eps);
    at.data(op.from.mean, state);
    at.rows(op.solver.keep, keep, T(1));
    at.rows(op.solver.take, take);
    at.rows(op.solver.std, noise_scale);
    value[0] = updated_mean(keep[0], state[0], take[0], value[0], noise_scale[0], eps[0]);
    at.store_data(op.out, value);
  });
}

// L_inf (101), or the cost -ln p of the bin of x (107-109).
template <class At, bool kSquared>
__global__ void __launch_bounds__(kTileThreads, 4)
    mixture_loss_kernel(const __grid_constant__ DiscretisedLoss op,
                        const __grid_constant__ TileShape<typename At::Compute> shape,
                        const __grid_constant__ RowMap rows, const Chunks chunks) {
  using T = typename At::Compute;
  __shared__ TileMemory<T> memory;
  const Bins<T> bins{op.from.num_bins, op.from.clip};
  const Range range = range_of(chunks);
  LossSum sum;
#pragma unroll 1
  for (int64_t first = range.begin; first < range.end; first += shape.variables) {
    const Tile<At> tile(op.from, shape, rows, first, range.end, memory);
    if (tile.active) {
      T x[1];
      tile.at.data(op.x, x);
      tile.prepare(kSquared ? x[0] : bins.index(x[0]));
    }
    if (kSquared) {
      tile.evaluate_errors();
    } else {
      tile.evaluate_log_probs();
    }
    if (tile.active) {
      T loss[1], weight[1];
      bool on[1];
      tile.at.mask(op.to.mask, on);
      if (kSquared) {
        tile.at.rows(op.weight, weight);
        const T error = tile.mean_error([&](T e) { return SquaredError<T>(weight[0], e).slope; });
        loss[0] = SquaredError<T>(weight[0], error).loss;
      } else {
        loss[0] = tile.bin_cost();
      }
      if (!on[0]) tile.clear();
      sum.add(op.to, tile.at, on, loss);
    }
    tile.template store<kSquared>(op.gradients);
  }
  finish_block<T>(op.to, chunks, sum.sum, sum.count);
}

template <class T>
int64_t grid_of(int64_t count, const TileShape<T>& shape) {
  return std::min(ceil_div(count, shape.variables), kMaxBlocks);
}

// Calls f(sample, shape). `sample` is a constant that says whether values are drawn.
template <class T, class F>
void with_choice(Choice choice, const NetworkOutput& from, F&& f) {
  if (choice == Choice::kSample) return f(std::true_type{}, TileShape<T>(from, kLogitTileSize));
  f(std::false_type{}, TileShape<T>(from));
}

}  // namespace

template <class T>
void mixture_expected_value(const DiscretisedExpectedValue& op) {
  const Layout layout = layout_of(op.from).network(op.out);
  const TileShape<T> shape(op.from);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type::One;
    launch(&expected_value_kernel<At>, grid_of(op.count, shape), kTileThreads, op, shape, layout.row_map());
  });
}

template <class T>
void mixture_choose(const Choose& op) {
  const Layout layout = layout_of(op.from).network(op.out).noise(op.sent.draw).noise(op.component);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type::One;
    with_choice<T>(op.sent.choice, op.from, [&](auto sample, const TileShape<T>& shape) {
      const auto kernel = &choose_kernel<At, decltype(sample)::value>;
      launch(kernel, grid_of(op.count, shape), kTileThreads, op, shape, layout.row_map());
    });
  });
}

template <class T>
void mixture_update(const DiscretisedUpdate& op) {
  Layout layout =
      layout_of(op.from).data(op.sent.known).data(op.out).bytes(op.sent.known_mask).noise(op.noise).noise(op.sent.draw);
  with_solver(layout.noise(op.component), op.solver);
  with_network_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type::One;
    with_choice<T>(op.sent.choice, op.from, [&](auto sample, const TileShape<T>& shape) {
      const auto kernel = &update_kernel<At, decltype(sample)::value>;
      launch(kernel, grid_of(op.count, shape), kTileThreads, op, shape, layout.row_map());
    });
  });
}

template <class T>
void mixture_loss(const DiscretisedLoss& op, const Chunks& chunks) {
  const Layout layout = layout_of(op.from).data(op.x).rows(op.weight).bytes(op.to.mask);
  const TileShape<T> shape(op.from);
  with_network_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type::One;
    const auto kernel = op.weight ? &mixture_loss_kernel<At, true> : &mixture_loss_kernel<At, false>;
    launch(kernel, chunks.blocks, kTileThreads, op, shape, layout.row_map(), chunks);
  });
}

BFN_INSTANTIATE(mixture_expected_value, const DiscretisedExpectedValue&);
BFN_INSTANTIATE(mixture_choose, const Choose&);
BFN_INSTANTIATE(mixture_update, const DiscretisedUpdate&);
BFN_INSTANTIATE(mixture_loss, const DiscretisedLoss&, const Chunks&);

}  // namespace bfn
