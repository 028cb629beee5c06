#include "../ops/vocabulary.h"

#include "noise.h"
#include "row_sums.h"

namespace bfn {
namespace {

// Consecutive classes of one token. They fit a buffer of kBlock numbers.
struct Chunk {
  int64_t token, first, count;  // the classes are [first, first + count)
  int64_t start;                // where the chunk begins in the memory of the tile

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

// Calls f(chunk) for the chunks of a token's row of the tile.
template <class F>
void for_chunks(const TileOfClasses& tile, int64_t token, F&& f) {
  for (int64_t done = 0; done < tile.classes; done += kBlock) {
    f(Chunk{token, tile.first + done, std::min(kBlock, tile.classes - done), token * tile.classes + done});
  }
}

// Calls f(k) if class k of the chunk is the token's class.
template <class F>
void where_in_chunk(const TileOfClasses& tile, const Chunk& chunk, F&& f) {
  const int64_t k = tile.x[chunk.token] - chunk.first;
  if (k >= 0 && k < chunk.count) f(k);
}

// Copies a chunk of the tile `from`, and fills its padding with -infinity.
template <class T>
void load_chunk(const Chunk& chunk, const T* from, T* to) {
  std::copy_n(from + chunk.start, chunk.count, to);
  std::fill(to + chunk.count, to + chunk.steps() * kLanes, kMinusInfinity<T>);
}

// Returns the largest number of a padded chunk.
template <class T>
T largest_of_chunk(const Chunk& chunk, const T* z) {
  T lanes[kLanes];
  max_steps(1, chunk.steps(), z, lanes);
  return *std::max_element(lanes, lanes + kLanes);
}

template <class T>
double sum_of_chunk(const Chunk& chunk, const T* e) {
  double lanes[kLanes], sum = 0;
  sum_steps<false>(1, chunk.steps(), e, lanes);
  for (const double lane : lanes) sum += lane;
  return sum;
}

// Returns the normals of a chunk, or zeros if the messages have no noise. `buffer` must have room for
// noise_buffer_size(kBlock) numbers.
template <class T>
const T* noise_of_chunk(const StepTile<T>& op, const Chunk& chunk, T* buffer) {
  if (op.noise.explicit_values) return load(op.noise.explicit_values, chunk.start, chunk.count, buffer);
  if (!op.noise.seed) {
    std::fill_n(buffer, chunk.count, T(0));
    return buffer;
  }
  const int64_t per_row = (op.num_classes + 3) / 4, skip = chunk.first % 4;
  const auto group = static_cast<uint64_t>(op.rows[chunk.token] * per_row + chunk.first / 4);
  fill_normals(buffer, (skip + chunk.count + 3) / 4, seed_of(op.noise), group, kSender, 0, Prefetch<T>());
  return buffer + skip;
}

// Stores the new state of a chunk. Also writes it to new_state, after it was rounded to the type of the state, with
// -infinity in the padding.
template <class T>
void step_chunk(const StepTile<T>& op, const Chunk& chunk, T* new_state) {
  T normals[noise_buffer_size(kBlock)], buffer[kBlock];
  const int64_t token = chunk.token;
  const T classes = static_cast<T>(op.num_classes), alpha = op.alpha[token];
  const T spread = op.spread ? op.spread[token] : T(0), keep = op.keep ? op.keep[token] : T(1);
  const bool sends_class = op.tile.x[token] >= 0;
  const T poison = sends_class || op.shared ? T(0) : kNaN<T>;
  const T* const eps = noise_of_chunk(op, chunk, normals);
  const T* const state = load(op.state, chunk.start, chunk.count, buffer);
  const auto stepped = [&](T p, int64_t k) {
    return fused(keep, state[k], message(p, alpha, spread, eps[k], classes));
  };
  if (op.shared && !sends_class) {
    const T* const p = op.numbers + chunk.start;
    for (int64_t k = 0; k < chunk.count; ++k) new_state[k] = stepped(p[k], k);
  } else {
    for (int64_t k = 0; k < chunk.count; ++k) new_state[k] = stepped(T(0), k) + poison;
    where_in_chunk(op.tile, chunk, [&](int64_t k) { new_state[k] = stepped(T(1), k); });
  }
  if (op.out) {
    store(op.out, chunk.start, chunk.count, new_state);
    if (op.out.dtype != dtype_of<T>()) load(op.out, chunk.start, chunk.count, new_state);
  }
  std::fill(new_state + chunk.count, new_state + chunk.steps() * kLanes, kMinusInfinity<T>);
}

// Writes the probabilities of a token. The token's top and total must be final.
template <class T>
void probabilities_again(const StepTile<T>& op, int64_t token) {
  const T top = op.top[token], inverse = 1 / op.total[token];
  for_chunks(op.tile, token, [&](const Chunk& chunk) {
    T z[kBlock], e[kBlock];
    step_chunk(op, chunk, z);
    exp_rows<true>(1, chunk.steps() * kLanes, z, &top, e);
    T* const out = op.numbers + chunk.start;
    for (int64_t k = 0; k < chunk.count; ++k) out[k] = e[k] * inverse;
  });
}

// A step of the online softmax over the tiles of a token's row. `top` is the largest number so far, including this
// tile. It replaces the tile's numbers by exp(number - top), and updates `total`, `kept` and `top` of the op.
template <class T>
void online_softmax(const StepTile<T>& op, int64_t token, T top) {
  double sum = 0;
  for_chunks(op.tile, token, [&](const Chunk& chunk) {
    T z[kBlock], e[kBlock];
    load_chunk(chunk, op.numbers, z);
    exp_rows<true>(1, chunk.steps() * kLanes, z, &top, e);
    sum += sum_of_chunk(chunk, e);
    std::copy_n(e, chunk.count, op.numbers + chunk.start);
  });
  op.kept[token] = exp_difference(op.top[token], top);
  op.total[token] = static_cast<T>(op.total[token] * op.kept[token] + sum);
  op.top[token] = top;
}

// Lane by lane, counts the e that are 1, and adds e and e^2 of all other e.
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

// The largest logit of a chunk, `top`, and the sums of e = exp(z - top) and of e^2 over the other logits.
struct TopSums {
  double top, rest, square;

  template <class T>
  TopSums(const Chunk& chunk, const T* z) {
    T largest = largest_of_chunk(chunk, z), e[kBlock];
    double sums[kLanes] = {}, squares[kLanes] = {}, ones[kLanes] = {}, count = 0;
    exp_rows<true>(1, chunk.steps() * kLanes, z, &largest, e);
    sum_below_one(chunk.steps(), e, sums, squares, ones);
    top = largest, rest = 0, square = 0;
    for (int64_t j = 0; j < kLanes; ++j) rest += sums[j], square += squares[j], count += ones[j];
    const double ties = std::max(count - 1, 0.0);  // how many other logits equal top; 0 if all are -inf
    rest += ties, square += ties;
  }

  // Adds these sums to the sums over other logits. `scale` and `other_scale` turn exp(z - old top) into
  // exp(z - new_top). Each of the two sums left out its old top. The smaller old top is not the new top, so that its
  // exponential, `smaller`, is added now.
  void add_to(double& other_top, double& other_rest, double& other_square) const {
    const double new_top = std::max(top, other_top);
    const double scale = ::exp(top - new_top), other_scale = ::exp(other_top - new_top);
    const double smaller = std::min(scale, other_scale);
    other_top = new_top;
    other_rest = scale * rest + other_scale * other_rest + smaller;
    other_square = scale * scale * square + other_scale * other_scale * other_square + smaller * smaller;
  }
};

}  // namespace

template <class T>
void sums_tile(const SumsTile<T>& op) {
  for_tokens(op.tile, [&](int64_t token) {
    double* const sums = op.sums + 4 * token;
    for_chunks(op.tile, token, [&](const Chunk& chunk) {
      T z[kBlock];
      load_chunk(chunk, op.logits, z);
      where_in_chunk(op.tile, chunk, [&](int64_t k) {
        sums[0] = z[k];
        z[k] = kMinusInfinity<T>;
      });
      TopSums(chunk, z).add_to(sums[1], sums[2], sums[3]);
    });
  });
}

template <class T>
void slopes_tile(const SlopesTile<T>& op) {
  for_tokens(op.tile, [&](int64_t token) {
    const T* const row = op.slopes + 5 * token;
    const T top = row[1];
    const RowSlopes<T> slopes{row[0], row[2], row[3], row[4]};
    for_chunks(op.tile, token, [&](const Chunk& chunk) {
      T z[kBlock], e[kBlock];
      load_chunk(chunk, op.logits, z);
      exp_rows<true>(1, chunk.steps() * kLanes, z, &top, e);
      T* const out = op.logits + chunk.start;
      for (int64_t k = 0; k < chunk.count; ++k) out[k] = slopes.by_other(e[k]);
      where_in_chunk(op.tile, chunk, [&](int64_t k) { out[k] = slopes.grad_x; });
    });
  });
}

template <class T>
void step_tile(const StepTile<T>& op) {
  for_tokens(op.tile, [&](int64_t token) {
    if (op.again) return probabilities_again(op, token);
    T top = op.top ? op.top[token] : T(0);
    for_chunks(op.tile, token, [&](const Chunk& chunk) {
      T new_state[kBlock];
      step_chunk(op, chunk, new_state);
      if (op.top || !op.out) std::copy_n(new_state, chunk.count, op.numbers + chunk.start);
      if (op.top) top = std::max(top, largest_of_chunk(chunk, new_state));
    });
    if (op.top) online_softmax(op, token, top);
  });
}

template void sums_tile(const SumsTile<float>&);
template void sums_tile(const SumsTile<double>&);
template void slopes_tile(const SlopesTile<float>&);
template void slopes_tile(const SlopesTile<double>&);
template void step_tile(const StepTile<float>&);
template void step_tile(const StepTile<double>&);

}  // namespace bfn
