#ifndef BFN_CUDA
#include "../ops/vocabulary.h"

#include "operators.h"

namespace bfn {
namespace {

template <class T>
constexpr ScalarType type_of() {
  return std::is_same_v<T, int64_t>  ? ScalarType::Long
         : std::is_same_v<T, double> ? ScalarType::Double
                                     : ScalarType::Float;
}

// The numbers of a tensor, which must have that type, lie side by side, and be `count`.
template <class T>
T* numbers(const char* name, const Tensor& x, int64_t count) {
  if (x.scalar_type() != type_of<T>() || !x.is_contiguous() || x.numel() != count) {
    throw std::invalid_argument(std::string(name) + " does not fit the tile");
  }
  return static_cast<T*>(x.mutable_data_ptr());
}

// The tile that a tensor `[tokens, classes]` has the numbers of.
TileOfClasses tile_of(const Tensor& numbers_of_it, const Tensor& x, int64_t first) {
  if (numbers_of_it.dim() != 2) throw std::invalid_argument("a tile must have two dimensions");
  const int64_t tokens = numbers_of_it.size(0);
  return {tokens, numbers_of_it.size(1), first, numbers<int64_t>("x", x, tokens)};
}

template <class T>
MessagesTile<T> messages_of(const Tensor& x, const Tensor& rows, const Tensor& beta, const Tensor& spread,
                            const Tensor& seed, int64_t first, int64_t num_classes, const Tensor& out) {
  const TileOfClasses tile = tile_of(out, x, first);
  return {
      .tile = tile,
      .num_classes = num_classes,
      .rows = numbers<int64_t>("rows", rows, tile.tokens),
      .seed = numbers<int64_t>("seed", seed, 1),
      .beta = numbers<T>("beta", beta, tile.tokens),
      .spread = numbers<T>("spread", spread, tile.tokens),
      .out = numbers<T>("out", out, tile.tokens * tile.classes),
  };
}

void messages_tile_into(const Tensor& x, const Tensor& rows, const Tensor& beta, const Tensor& spread,
                        const Tensor& seed, int64_t first, int64_t num_classes, Tensor out) {
  with_compute_type(out.scalar_type(), [&](auto t) {
    messages_tile(messages_of<decltype(t)>(x, rows, beta, spread, seed, first, num_classes, out));
  });
}

void flow_tile_into(const Tensor& x, const Tensor& rows, const Tensor& beta, const Tensor& spread, const Tensor& seed,
                    int64_t first, int64_t num_classes, bool again, Tensor top, Tensor total, Tensor kept, Tensor out) {
  with_compute_type(out.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const MessagesTile<T> messages = messages_of<T>(x, rows, beta, spread, seed, first, num_classes, out);
    const auto each = [&](const char* name, const Tensor& values) {
      return numbers<T>(name, values, messages.tile.tokens);
    };
    flow_tile(FlowTile<T>{
        .messages = messages,
        .again = again,
        .top = each("top", top),
        .total = each("total", total),
        .kept = each("kept", kept),
    });
  });
}

void sums_tile_into(const Tensor& logits, const Tensor& x, int64_t first, Tensor sums) {
  const TileOfClasses tile = tile_of(logits, x, first);
  with_compute_type(logits.scalar_type(), [&](auto t) {
    using T = decltype(t);
    sums_tile(SumsTile<T>{tile, numbers<T>("logits", logits, tile.tokens * tile.classes),
                          numbers<double>("sums", sums, 4 * tile.tokens)});
  });
}

void slopes_tile_into(const Tensor& x, const Tensor& slopes, int64_t first, Tensor logits) {
  const TileOfClasses tile = tile_of(logits, x, first);
  with_compute_type(logits.scalar_type(), [&](auto t) {
    using T = decltype(t);
    slopes_tile(SlopesTile<T>{tile, numbers<T>("slopes", slopes, 5 * tile.tokens),
                              numbers<T>("logits", logits, tile.tokens * tile.classes)});
  });
}

void step_tile_into(const Tensor& x, const Tensor& rows, const Tensor& alpha, const MaybeTensor& spread,
                    const MaybeTensor& keep, const MaybeTensor& seed, const MaybeTensor& noise, int64_t first,
                    int64_t num_classes, bool shared, const Tensor& state, Tensor tile_numbers, Tensor out,
                    MaybeTensor top, MaybeTensor total, MaybeTensor kept) {
  const TileOfClasses tile = tile_of(tile_numbers, x, first);
  const Shape shape = shape_of(tile_numbers);
  if (shape_of(out) != shape || shape_of(state) != shape)
    throw std::invalid_argument("the state does not fit the tile");
  with_compute_type(tile_numbers.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const auto each = [&](const char* name, const MaybeTensor& values) -> T* {
      return values ? numbers<T>(name, *values, tile.tokens) : nullptr;
    };
    step_tile(StepTile<T>{
        .tile = tile,
        .num_classes = num_classes,
        .rows = numbers<int64_t>("rows", rows, tile.tokens),
        .alpha = each("alpha", alpha),
        .spread = each("spread", spread),
        .keep = each("keep", keep),
        .noise = spread ? noise_of(seed, noise, shape, kSender) : Noise{},
        .state = view("state", state, shape),
        .out = view_of_out(out, shape),
        .shared = shared,
        .top = each("top", top),
        .total = each("total", total),
        .kept = each("kept", kept),
        .numbers = numbers<T>("numbers", tile_numbers, tile.tokens * tile.classes),
    });
  });
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add<&bfn::messages_tile_into>(m, "vocabulary_messages_tile");
  bfn::add<&bfn::flow_tile_into>(m, "vocabulary_flow_tile");
  bfn::add<&bfn::sums_tile_into>(m, "vocabulary_sums_tile");
  bfn::add<&bfn::slopes_tile_into>(m, "vocabulary_slopes_tile");
  bfn::add<&bfn::step_tile_into>(m, "vocabulary_step_tile");
}
#endif
