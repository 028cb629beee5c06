// A tile of variables of discretised data whose output distributions are mixtures, with all their components.
#pragma once

#include "../math/mixtures.h"
#include "discretised_loss.h"
#include "mixtures.h"

namespace bfn {

constexpr int kEach = kTileSize / kTileThreads;  // the most components of a thread
// A tile from which a component is drawn has room for more components, since only their logits are read.
constexpr int kLogitTileSize = 2 * kTileSize;

template <class T>
struct TileShape {
  int components, variables;
  uint32_t inverse;  // the least whole number above 2^24 divided by `components`
  int padding;       // behind the components of a variable, so that these take an odd number of places in shared memory
  OutputLimits<T> limits;

  explicit TileShape(const NetworkOutput& from, int size = kTileSize)
      : components(static_cast<int>(from.components)),
        variables(static_cast<int>(variables_of_tile(from, size))),
        inverse((1u << 24) / static_cast<uint32_t>(components) + 1),
        padding(1 - components % 2),
        limits(from.limits.as<T>()) {}
  // The variable of component i. The result is exact, as i * components is below 2^24, and i * inverse below 2^32.
  __device__ int variable_of(int i) const { return static_cast<int>(static_cast<uint32_t>(i) * inverse >> 24); }
  // The place of component i in shared memory. Neighbouring variables have their m-th components in different banks.
  __device__ int place_of(int i) const { return i + variable_of(i) * padding; }
};

// The components of a tile of variables. The threads of a block read them together, so that each warp reads
// neighbouring numbers. Then each thread with `active` handles one variable, to which `at` is the access.
template <class At>
class Components {
 public:
  using T = typename At::Compute;
  const NetworkOutput& from;
  const TileShape<T>& shape;
  int64_t first;  // the first component of the tile
  int size;       // the number of its components
  bool active;
  At at;
  T *logits, *logit;  // in shared memory: the logits of the tile, and the logits of the thread's variable

  __device__ Components(const NetworkOutput& of, const TileShape<T>& tile, const RowMap& rows, int64_t start,
                        int64_t end, T* shared)
      : from(of), shape(tile), first(start * tile.components), logits(shared) {
    const int variables = end - start < tile.variables ? static_cast<int>(end - start) : tile.variables;
    size = variables * tile.components;
    active = static_cast<int>(threadIdx.x) < variables;
    at = At{start + threadIdx.x, active ? rows.length.divide(start + threadIdx.x) : 0};
    logit = shared + threadIdx.x * (tile.components + tile.padding);
  }

  __device__ At component(int i) const { return {first + i, 0}; }
  __device__ T number(const View& view, int i) const { return component(i).one_of_network(view); }
  __device__ void read_logit(int i) const { logits[shape.place_of(i)] = number(from.mixture_logits, i); }
  // Returns the numbers that the components of the thread's variable have in common.
  __device__ OutputScales<T> scales() const {
    T state[1], mean_scale[1], noise_scale[1];
    at.data(from.mean, state);
    at.rows(from.mean_scale, mean_scale);
    at.rows(from.noise_scale, noise_scale);
    return output_scales(from.kind, state[0], mean_scale[0], noise_scale[0]);
  }
  // scales() returns the OutputScales of the component's variable.
  template <class F>
  __device__ OutputNormal<T> normal(int i, F&& scales) const {
    return output_normal(from.kind, shape.limits, number(from.prediction, i), number(from.log_std, i), scales);
  }
  // Replaces the logits of the thread's variable by exp(logit - largest logit), and calls f(m, number) for each. The
  // numbers are proportional to the shares. Returns the factor.
  template <class F>
  __device__ T exponentiate(F&& f) const {
    return 1 / exponentials(logit, f).sum;
  }

 protected:
  // The log-sum of the terms of the thread's variable. Replaces each term by e = exp(term - largest term), and calls
  // f(m, e).
  template <class F>
  __device__ LogSum<T> exponentials(T* terms, F&& f) const {
    LogSum<T> total{largest(terms), T(0)};
    for (int m = 0; m < shape.components; ++m) {
      const T e = exp_term(terms[m] - total.top);
      terms[m] = e;
      total.sum += e;
      f(m, e);
    }
    return total;
  }
  __device__ T largest(const T* terms) const {
    T top = terms[0];
    for (int m = 1; m < shape.components; ++m) top = Larger()(top, terms[m]);
    return top;
  }
};

// The numbers that the threads of a block share. `logit` to `by_log_std` have a number for each component, and `x` to
// `early` have one for each variable. A value is ln p, or x - k with k of ../math/expected_value.h.
template <class T>
struct TileMemory {
  T logit[kTileSize + kTileThreads], value[kTileSize + kTileThreads];
  T by_prediction[kTileSize], by_log_std[kTileSize];  // the derivatives of k or ln p by the network's predictions
  T x[kTileThreads], offset[kTileThreads], slope[kTileThreads],
      early[kTileThreads];  // see OutputScales; `early` is 0 or 1
};

// A tile whose components have values. All threads of the block call `evaluate...`, `likeliest` and `store`. They
// compute the value of each component once. In between, threads with `active` call the other methods for their
// variables.
template <class At>
class Tile : public Components<At> {
 public:
  using T = typename At::Compute;
  using Base = Components<At>;
  using Base::active, Base::at, Base::logit, Base::shape, Base::size;

  __device__ Tile(const NetworkOutput& from, const TileShape<T>& tile, const RowMap& rows, int64_t start, int64_t end,
                  TileMemory<T>& memory)
      : Base(from, tile, rows, start, end, memory.logit),
        memory_(memory),
        bins_{from.num_bins, from.clip},
        value_(memory.value + (logit - memory.logit)) {}

  // Writes what the components of the thread's variable need. This comes first.
  __device__ void prepare(T x) const {
    memory_.x[threadIdx.x] = x;
    const OutputScales<T> by = this->scales();
    memory_.offset[threadIdx.x] = by.offset;
    memory_.slope[threadIdx.x] = by.slope;
    memory_.early[threadIdx.x] = by.early ? T(1) : T(0);
  }
  // Makes the values ln p of bin x.
  __device__ void evaluate_log_probs() const {
    evaluate([&](const OutputNormal<T>& of, T x) { return log_bin_prob(x, of.mean, of.std, bins_); });
  }
  // Makes the values x - k. In float, the components are first sorted by their rules, as expected_values does. In
  // double, they are not sorted, since only wide unclipped distributions have another rule.
  __device__ void evaluate_errors() const {
    if constexpr (sizeof(T) == sizeof(double)) {
      evaluate([&](const OutputNormal<T>& of, T x) {
        const ExpectedValue<T> k = expected_value(of.mean, of.std, bins_);
        return WithGradient<T>{k.error(x), k.by_mean, k.by_std};
      });
    } else {
      evaluate_sorted_errors();
    }
  }
  // The centre of the likeliest bin. All threads call this function, but it serves the threads with `active`.
  __device__ T likeliest() const {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < size; i += kTileThreads) {
      const OutputNormal<T> of = read(i);
      memory_.by_prediction[i] = of.mean;
      memory_.by_log_std[i] = of.std;
    }
    __syncthreads();
    const T factor = active ? this->exponentiate([](int, T) {}) : T(0);
    return mixture_mode(bins_, [&](T bin) {
#pragma unroll 1
      for (int i = threadIdx.x; i < size; i += kTileThreads) {
        const auto p = log_bin_prob(bin, memory_.by_prediction[i], memory_.by_log_std[i], bins_);
        memory_.value[shape.place_of(i)] = exp(p.value);
      }
      __syncthreads();
      T mass = 0;
      for (int m = 0; active && m < shape.components; ++m) mass += logit[m] * value_[m];
      __syncthreads();
      return factor * mass;
    });
  }
  // Stores the gradients: of a function of the errors, or of -ln p.
  template <bool kErrors>
  __device__ void store(const NetworkGradients& to) const {
    if (!to.any()) return;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = threadIdx.x + j * kTileThreads, place = shape.place_of(i);
      if (i >= size) break;
      const T share = memory_.logit[place], value = memory_.value[place];
      const T by_prediction = memory_.by_prediction[i], by_log_std = memory_.by_log_std[i];
      const auto by = kErrors ? mean_gradient(share, {T(0), T(0), by_prediction, by_log_std}, value)
                              : log_sum_gradient(T(-1), value, share, {T(0), by_prediction, by_log_std});
      store_one(to.grad_prediction, i, by.by_mean);
      store_one(to.grad_log_std, i, by.by_std);
      store_one(to.grad_mixture_logits, i, by.by_logit);
    }
  }

  // Returns the mean error over the components. slope_of(error) must return the derivative of a function by k. The
  // logits are replaced by the shares times this derivative, and the values by k_m - k. The errors are often nearly
  // equal. So their differences from the first one are added, which loses fewer digits of k_m - k.
  template <class F>
  __device__ T mean_error(F&& slope_of) const {
    const T first = value_[0];
    T rest = 0;
    const T factor = this->exponentiate([&](int m, T e) { rest += e * (value_[m] - first); });
    rest *= factor;
    const T slope = factor * slope_of(first + rest);
    for (int m = 0; m < shape.components; ++m) {
      logit[m] *= slope;
      value_[m] = rest - (value_[m] - first);
    }
    return first + rest;
  }
  // Returns -ln p of the mixture. Replaces the logits by the shares, and each value by the posterior share of its
  // component, which is share p divided by the sum over the components.
  __device__ T bin_cost() const {
    const T top = this->largest(logit);
    for (int m = 0; m < shape.components; ++m) value_[m] += logit[m] - top;
    const T factor = this->exponentiate([](int, T) {});
    const LogSum<T> total = this->exponentials(value_, [](int, T) {});
    const T inverse = 1 / total.sum;
    for (int m = 0; m < shape.components; ++m) {
      logit[m] *= factor;
      value_[m] *= inverse;
    }
    return -(total.value() + log(factor));
  }
  // Makes the gradients of the variable 0.
  __device__ void clear() const {
    const int first = threadIdx.x * shape.components;
    for (int m = 0; m < shape.components; ++m) {
      logit[m] = value_[m] = memory_.by_prediction[first + m] = memory_.by_log_std[first + m] = 0;
    }
  }

 private:
  TileMemory<T>& memory_;
  Bins<T> bins_;
  T* value_;  // of the thread's variable

  // Reads component i. Its normal is returned, and its logit is written to shared memory.
  __device__ OutputNormal<T> read(int i) const {
    this->read_logit(i);
    return this->normal(i, [&] {
      const int v = shape.variable_of(i);
      return OutputScales<T>{memory_.offset[v], memory_.slope[v], memory_.early[v] != T(0)};
    });
  }
  // Makes the values f(normal, x) with their derivatives, one by one.
  template <class F>
  __device__ void evaluate(F&& f) const {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < size; i += kTileThreads) {
      const OutputNormal<T> of = read(i);
      const WithGradient<T> value = f(of, memory_.x[shape.variable_of(i)]);
      put(i, value.value, value.by_mean * of.mean_by_prediction, value.by_std * of.std_by_log_std);
    }
    __syncthreads();
  }
  __device__ void evaluate_sorted_errors() const {
    __shared__ T numbers[3][kTileSize];  // the mean and std of each component and, if they are sorted, its number i
    T mean[kEach], std[kEach];
    int place[kEach];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = threadIdx.x + j * kTileThreads;
      mean[j] = j == 0 ? T(0) : mean[0];
      std[j] = j == 0 ? T(1) : std[0];
      if (i < size) {
        const OutputNormal<T> of = read(i);
        mean[j] = of.mean;
        std[j] = of.std;
        memory_.by_prediction[i] = of.mean_by_prediction;
        memory_.by_log_std[i] = of.std_by_log_std;
      }
    }
    const EdgeRuleLimits<T> limits(bins_);
    const bool sorted = sort_by_rule(mean, std, limits, numbers, place);
    for (int j = 0; sorted && j < kEach; ++j) numbers[2][place[j]] = static_cast<T>(threadIdx.x + j * kTileThreads);
    __syncthreads();
    const int end = sorted ? kTileSize : size;
#pragma unroll 1
    for (int at = threadIdx.x; at < end; at += kTileThreads) {
      int i = at;
      if (sorted) {
        i = static_cast<int>(numbers[2][at]);
        if (i >= size) continue;
      }
      const ExpectedValue<T> k = expected_value(numbers[0][at], numbers[1][at], bins_, limits);
      put(i, k.error(memory_.x[shape.variable_of(i)]), k.by_mean * memory_.by_prediction[i],
          k.by_std * memory_.by_log_std[i]);
    }
    __syncthreads();
  }
  __device__ void put(int i, T value, T by_prediction, T by_log_std) const {
    memory_.value[shape.place_of(i)] = value;
    memory_.by_prediction[i] = by_prediction;
    memory_.by_log_std[i] = by_log_std;
  }
  __device__ void store_one(const View& to, int i, T x) const {
    const T each[1] = {x};
    if (to) this->component(i).store_compute(to, each);
  }
};

}  // namespace bfn
