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

// Returns the numbers of a tensor, which must have this type, be contiguous and have `count` elements.
template <class T>
T* numbers(const char* name, const Tensor& x, int64_t count) {
  if (x.scalar_type() != type_of<T>() || !x.is_contiguous() || x.numel() != count) {
    throw std::invalid_argument(std::string(name) + " does not fit the tile");
  }
  return static_cast<T*>(x.mutable_data_ptr());
}

// Returns the tile whose numbers are in a tensor `[tokens, classes]`.
TileOfClasses tile_of(const Tensor& numbers_of_it, const Tensor& x, int64_t first) {
  if (numbers_of_it.dim() != 2) throw std::invalid_argument("a tile must have two dimensions");
  const int64_t tokens = numbers_of_it.size(0);
  return {tokens, numbers_of_it.size(1), first, numbers<int64_t>("x", x, tokens)};
}

// Returns the numbers of each token; null if the tensor is missing.
template <class T>
T* numbers_of_tokens(const char* name, const MaybeTensor& values, const TileOfClasses& tile) {
  return values ? numbers<T>(name, *values, tile.tokens) : nullptr;
}

void flow_tile_into(const Tensor& x, const Tensor& rows, const Tensor& beta, const Tensor& spread, const Tensor& seed,
                    int64_t first, int64_t num_classes, bool again, Tensor out, MaybeTensor top, MaybeTensor total,
                    MaybeTensor kept) {
  const TileOfClasses tile = tile_of(out, x, first);
  with_compute_type(out.scalar_type(), [&](auto t) {
    using T = decltype(t);
    flow_tile(FlowTile<T>{
        .tile = tile,
        .num_classes = num_classes,
        .rows = numbers<int64_t>("rows", rows, tile.tokens),
        .seed = numbers<int64_t>("seed", seed, 1),
        .beta = numbers<T>("beta", beta, tile.tokens),
        .spread = numbers<T>("spread", spread, tile.tokens),
        .again = again,
        .top = numbers_of_tokens<T>("top", top, tile),
        .total = numbers_of_tokens<T>("total", total, tile),
        .kept = numbers_of_tokens<T>("kept", kept, tile),
        .out = numbers<T>("out", out, tile.tokens * tile.classes),
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
    step_tile(StepTile<T>{
        .tile = tile,
        .num_classes = num_classes,
        .rows = numbers<int64_t>("rows", rows, tile.tokens),
        .alpha = numbers_of_tokens<T>("alpha", alpha, tile),
        .spread = numbers_of_tokens<T>("spread", spread, tile),
        .keep = numbers_of_tokens<T>("keep", keep, tile),
        .noise = spread ? noise_of(seed, noise, shape, kSender) : Noise{},
        .state = view("state", state, shape),
        .out = view_of_out(out, shape),
        .shared = shared,
        .top = numbers_of_tokens<T>("top", top, tile),
        .total = numbers_of_tokens<T>("total", total, tile),
        .kept = numbers_of_tokens<T>("kept", kept, tile),
        .numbers = numbers<T>("numbers", tile_numbers, tile.tokens * tile.classes),
    });
  });
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add<&bfn::flow_tile_into>(m, "vocabulary_flow_tile");
  bfn::add<&bfn::sums_tile_into>(m, "vocabulary_sums_tile");
  bfn::add<&bfn::slopes_tile_into>(m, "vocabulary_slopes_tile");
  bfn::add<&bfn::step_tile_into>(m, "vocabulary_step_tile");
}
#endif
