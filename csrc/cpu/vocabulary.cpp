#include "../ops/vocabulary.h"

#include "noise.h"
#include "row_sums.h"

namespace bfn {
namespace {

// A part of the row of a token that fits a buffer of kBlock numbers.
struct Part {
  int64_t token, first, count, start;  // `first` is the number of its first class; it starts at this place of the tile

  int64_t steps() const { return (count + kLanes - 1) / kLanes; }
};

// Calls f(token) for all tokens.
template <class F>
void for_tokens(const TileOfClasses& tile, F&& f) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, tile.classes));
  for_range(tile.tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) f(token);
  });
}

template <class F>
void for_parts(const TileOfClasses& tile, int64_t token, F&& f) {
  for (int64_t done = 0; done < tile.classes; done += kBlock) {
    f(Part{token, tile.first + done, std::min(kBlock, tile.classes - done), token * tile.classes + done});
  }
}

// Calls f(place) if the token's class is in the part.
template <class F>
void where_in(const TileOfClasses& tile, const Part& part, F&& f) {
  const int64_t place = tile.x[part.token] - part.first;
  if (place >= 0 && place < part.count) f(place);
}

// Copies a part, and fills its padding.
template <class T>
void load_part(const Part& part, const T* from, T* to, T pad) {
  std::copy_n(from + part.start, part.count, to);
  std::fill(to + part.count, to + part.steps() * kLanes, pad);
}

template <class T>
T largest(const Part& part, const T* z) {
  T lanes[kLanes];
  max_steps(1, part.steps(), z, lanes);
  return *std::max_element(lanes, lanes + kLanes);
}

template <class T>
double sum_of_part(const Part& part, const T* e) {
  double lanes[kLanes], sum = 0;
  sum_steps<false>(1, part.steps(), e, lanes);
  for (const double lane : lanes) sum += lane;
  return sum;
}

// The normals of a part; `buffer` has room for noise_room(kBlock).
template <class T>
const T* normals_of_part(const Part& part, int64_t row, int64_t num_classes, uint64_t seed, T* buffer) {
  const int64_t per_row = (num_classes + 3) / 4, skip = part.first % 4;
  const auto group = static_cast<uint64_t>(row * per_row + part.first / 4);
  fill_normals(buffer, (skip + part.count + 3) / 4, seed, group, kSender, 0, Ahead<T>());
  return buffer + skip;
}

// Returns the numbers y of a part, with -infinity in the padding.
template <class T>
void flow_part(const FlowTile<T>& op, const Part& part, T* y) {
  T normals[noise_room(kBlock)];
  const T classes = static_cast<T>(op.num_classes), beta = op.beta[part.token], spread = op.spread[part.token];
  const auto seed = static_cast<uint64_t>(*op.seed);
  const T* const eps = normals_of_part(part, op.rows[part.token], op.num_classes, seed, normals);
  for (int64_t k = 0; k < part.count; ++k) y[k] = message(T(0), beta, spread, eps[k], classes);
  where_in(op.tile, part, [&](int64_t k) { y[k] = message(T(1), beta, spread, eps[k], classes); });
  std::fill(y + part.count, y + part.steps() * kLanes, kMinusInfinity<T>);
}

template <class T>
void flow_again(const FlowTile<T>& op, int64_t token) {
  const T top = op.top[token], by = 1 / op.total[token];
  for_parts(op.tile, token, [&](const Part& part) {
    T y[kBlock], e[kBlock];
    flow_part(op, part, y);
    exp_rows<true>(1, part.steps() * kLanes, y, &top, e, 0);
    T* const out = op.out + part.start;
    for (int64_t k = 0; k < part.count; ++k) out[k] = e[k] * by;
  });
}

// Turns the numbers of a token into exp(number - top), where top is at least op.top, and adds their sum to op.total.
template <class Op, class T>
void join_exponentials(const Op& op, int64_t token, T top, T* numbers) {
  double sum = 0;
  for_parts(op.tile, token, [&](const Part& part) {
    T y[kBlock], e[kBlock];
    load_part(part, numbers, y, kMinusInfinity<T>);
    exp_rows<true>(1, part.steps() * kLanes, y, &top, e, 0);
    sum += sum_of_part(part, e);
    std::copy_n(e, part.count, numbers + part.start);
  });
  op.kept[token] = exp_difference(op.top[token], top);
  op.total[token] = static_cast<T>(op.total[token] * op.kept[token] + sum);
  op.top[token] = top;
}

template <class T>
void flow_first(const FlowTile<T>& op, int64_t token) {
  T top = op.top[token];
  for_parts(op.tile, token, [&](const Part& part) {
    T y[kBlock];
    flow_part(op, part, y);
    top = std::max(top, largest(part, y));
    std::copy_n(y, part.count, op.out + part.start);
  });
  join_exponentials(op, token, top, op.out);
}

template <class T>
void flow_alone(const FlowTile<T>& op, int64_t token) {
  for_parts(op.tile, token, [&](const Part& part) {
    T y[kBlock];
    flow_part(op, part, y);
    std::copy_n(y, part.count, op.out + part.start);
  });
}

// Returns the noise of a part, or zeros if the step has no noise.
template <class T>
const T* step_noise(const StepTile<T>& op, const Part& part, T* buffer) {
  if (op.noise.explicit_values) return load(op.noise.explicit_values, part.start, part.count, buffer);
  if (op.noise.seed) return normals_of_part(part, op.rows[part.token], op.num_classes, key_of(op.noise), buffer);
  std::fill_n(buffer, part.count, T(0));
  return buffer;
}

// Returns the new state of a part, rounded to the type of the state, with -infinity in the padding.
template <class T>
void step_part(const StepTile<T>& op, const Part& part, T* new_state) {
  T normals[noise_room(kBlock)], buffer[kBlock];
  const int64_t token = part.token;
  const T classes = static_cast<T>(op.num_classes), alpha = op.alpha[token],
          spread = op.spread ? op.spread[token] : T(0);
  const T keep = op.keep ? op.keep[token] : T(1);
  const bool sends_one = op.tile.x[token] >= 0;
  const T poison = sends_one || op.shared ? T(0) : kNaN<T>;
  const T* const eps = step_noise(op, part, normals);
  const T* const state = load(op.state, part.start, part.count, buffer);
  const auto stepped = [&](T p, int64_t k) {
    return fused(keep, state[k], message(p, alpha, spread, eps[k], classes));
  };
  if (op.shared && !sends_one) {
    const T* const p = op.numbers + part.start;
    for (int64_t k = 0; k < part.count; ++k) new_state[k] = stepped(p[k], k);
  } else {
    for (int64_t k = 0; k < part.count; ++k) new_state[k] = stepped(T(0), k) + poison;
    where_in(op.tile, part, [&](int64_t k) { new_state[k] = stepped(T(1), k); });
  }
  store(op.out, part.start, part.count, new_state);
  if (op.out.dtype != dtype_of<T>()) load(op.out, part.start, part.count, new_state);
  std::fill(new_state + part.count, new_state + part.steps() * kLanes, kMinusInfinity<T>);
}

// In lanes: the sums of e and of e^2 over all e but 1, and how many e are 1.
template <class T>
[[gnu::noinline]] void sum_below_one(int64_t steps, const T* __restrict e, double* __restrict sums,
                                     double* __restrict squares, double* __restrict ones) {
  for (int64_t s = 0; s < steps; ++s) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const double value = e[s * kLanes + j], below = value == 1 ? 0 : value;
      sums[j] += below;
      squares[j] += below * below;
      ones[j] += value == 1 ? 1 : 0;
    }
  }
}

// The largest of some logits, and the sums over the others.
struct TopSums {
  double top, rest, square;

  template <class T>
  TopSums(const Part& part, const T* z) {
    T most = largest(part, z), e[kBlock];
    double sums[kLanes] = {}, squares[kLanes] = {}, ones[kLanes] = {}, count = 0;
    exp_rows<true>(1, part.steps() * kLanes, z, &most, e, 0);
    sum_below_one(part.steps(), e, sums, squares, ones);
    top = most, rest = 0, square = 0;
    for (int64_t j = 0; j < kLanes; ++j) rest += sums[j], square += squares[j], count += ones[j];
    const double more = std::max(count - 1, 0.0);  // how many others are as large; none if all are -inf
    rest += more, square += more;
  }

  // Adds these sums to the sums of other logits.
  void join(double& other_top, double& other_rest, double& other_square) const {
    const double most = std::max(top, other_top), here = ::exp(top - most), there = ::exp(other_top - most);
    const double less = std::min(here, there);  // what the smaller one of the two largest logits adds
    other_top = most;
    other_rest = here * rest + there * other_rest + less;
    other_square = here * here * square + there * there * other_square + less * less;
  }
};

}  // namespace

template <class T>
void flow_tile(const FlowTile<T>& op) {
  for_tokens(op.tile, [&](int64_t token) {
    if (!op.top) return flow_alone(op, token);
    op.again ? flow_again(op, token) : flow_first(op, token);
  });
}

template <class T>
void sums_tile(const SumsTile<T>& op) {
  for_tokens(op.tile, [&](int64_t token) {
    double* const sums = op.sums + 4 * token;
    for_parts(op.tile, token, [&](const Part& part) {
      T z[kBlock];
      load_part(part, op.logits, z, kMinusInfinity<T>);
      where_in(op.tile, part, [&](int64_t k) {
        sums[0] = z[k];
        z[k] = kMinusInfinity<T>;
      });
      TopSums(part, z).join(sums[1], sums[2], sums[3]);
    });
  });
}

template <class T>
void slopes_tile(const SlopesTile<T>& op) {
  for_tokens(op.tile, [&](int64_t token) {
    const T* const row = op.slopes + 5 * token;
    const T top = row[1];
    const RowSlopes<T> slopes{row[0], row[2], row[3], row[4]};
    for_parts(op.tile, token, [&](const Part& part) {
      T z[kBlock] = {}, e[kBlock];
      load_part(part, op.logits, z, T(0));
      exp_rows<true>(1, part.steps() * kLanes, z, &top, e, 0);
      T* const out = op.logits + part.start;
      for (int64_t k = 0; k < part.count; ++k) out[k] = slopes.by_other(e[k]);
      where_in(op.tile, part, [&](int64_t k) { out[k] = slopes.grad_x; });
    });
  });
}

template <class T>
void step_tile(const StepTile<T>& op) {
  for_tokens(op.tile, [&](int64_t token) {
    T top = op.top ? op.top[token] : T(0);
    for_parts(op.tile, token, [&](const Part& part) {
      T new_state[kBlock];
      step_part(op, part, new_state);
      if (!op.top) return;
      top = std::max(top, largest(part, new_state));
      std::copy_n(new_state, part.count, op.numbers + part.start);
    });
    if (op.top) join_exponentials(op, token, top, op.numbers);
  });
}

template void flow_tile(const FlowTile<float>&);
template void flow_tile(const FlowTile<double>&);
template void sums_tile(const SumsTile<float>&);
template void sums_tile(const SumsTile<double>&);
template void slopes_tile(const SlopesTile<float>&);
template void slopes_tile(const SlopesTile<double>&);
template void step_tile(const StepTile<float>&);
template void step_tile(const StepTile<double>&);

}  // namespace bfn
