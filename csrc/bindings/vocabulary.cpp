#ifndef BFN_CUDA
#include "../ops/vocabulary.h"

#include "operators.h"

namespace bfn::bindings {
namespace {

// Returns the numbers of a tensor, which must have this type, be contiguous and have `count` elements. They are null if
// the tensor is missing.
template <class T>
T* numbers(const char* name, Maybe x, int64_t count) {
  if (!x) return nullptr;
  const bool fits = x->scalar_type() == torch::headeronly::CppTypeToScalarType<T>::value && x->numel() == count;
  check(fits && x->is_contiguous(), name, " does not fit the tile");
  return static_cast<T*>(x->mutable_data_ptr());
}

// Calls f with a float or a double, whichever the tensor holds. The operators below return nothing.
template <class F>
std::tuple<> in_type_of(Given x, F f) {
  x.scalar_type() == ScalarType::Double ? f(double{}) : f(float{});
  return {};
}

// Returns the tile whose numbers are in a tensor `[tokens, classes]`.
TileOfClasses tile_of(Given numbers_of_it, Given x, int64_t first) {
  check(numbers_of_it.dim() == 2, "a tile", " must have two dimensions");
  const int64_t tokens = numbers_of_it.size(0);
  return {tokens, numbers_of_it.size(1), first, numbers<int64_t>("x", x, tokens)};
}

auto flow_tile_into(Given x, Given rows, Given beta, Given spread, Given seed, int64_t first, int64_t num_classes,
                    bool again, Given out, Maybe top, Maybe total, Maybe kept) {
  const TileOfClasses tile = tile_of(out, x, first);
  return in_type_of(out, [&]<class T>(T) {
    flow_tile(FlowTile<T>{
        .tile = tile,
        .num_classes = num_classes,
        .rows = numbers<int64_t>("rows", rows, tile.tokens),
        .seed = numbers<int64_t>("seed", seed, 1),
        .beta = numbers<T>("beta", beta, tile.tokens),
        .spread = numbers<T>("spread", spread, tile.tokens),
        .again = again,
        .top = numbers<T>("top", top, tile.tokens),
        .total = numbers<T>("total", total, tile.tokens),
        .kept = numbers<T>("kept", kept, tile.tokens),
        .out = numbers<T>("out", out, tile.tokens * tile.classes),
    });
  });
}

auto sums_tile_into(Given logits, Given x, int64_t first, Given sums) {
  const TileOfClasses tile = tile_of(logits, x, first);
  return in_type_of(logits, [&]<class T>(T) {
    sums_tile(SumsTile<T>{tile, numbers<T>("logits", logits, tile.tokens * tile.classes),
                          numbers<double>("sums", sums, 4 * tile.tokens)});
  });
}

auto slopes_tile_into(Given x, Given slopes, int64_t first, Given logits) {
  const TileOfClasses tile = tile_of(logits, x, first);
  return in_type_of(logits, [&]<class T>(T) {
    slopes_tile(SlopesTile<T>{tile, numbers<T>("slopes", slopes, 5 * tile.tokens),
                              numbers<T>("logits", logits, tile.tokens * tile.classes)});
  });
}

auto step_tile_into(Given x, Given rows, Given alpha, Maybe spread, Maybe keep, Maybe seed, Maybe noise, int64_t first,
                    int64_t num_classes, bool shared, Given state, Given tile_numbers, Given out, Maybe top,
                    Maybe total, Maybe kept) {
  const TileOfClasses tile = tile_of(tile_numbers, x, first);
  const Shape shape = shape_of(tile_numbers);
  check(shape_of(out) == shape && shape_of(state) == shape, "the state", " does not fit the tile");
  return in_type_of(tile_numbers, [&]<class T>(T) {
    step_tile(StepTile<T>{
        .tile = tile,
        .num_classes = num_classes,
        .rows = numbers<int64_t>("rows", rows, tile.tokens),
        .alpha = numbers<T>("alpha", alpha, tile.tokens),
        .spread = numbers<T>("spread", spread, tile.tokens),
        .keep = numbers<T>("keep", keep, tile.tokens),
        .noise = spread ? noise_of(seed, noise, shape, kSender) : Noise{},
        .state = view("state", state, shape),
        .out = view_of_out(out, shape),
        .shared = shared,
        .top = numbers<T>("top", top, tile.tokens),
        .total = numbers<T>("total", total, tile.tokens),
        .kept = numbers<T>("kept", kept, tile.tokens),
        .numbers = numbers<T>("numbers", tile_numbers, tile.tokens * tile.classes),
    });
  });
}

BFN_OPERATORS(m) {
  add<&flow_tile_into>(m, "vocabulary_flow_tile");
  add<&sums_tile_into>(m, "vocabulary_sums_tile");
  add<&slopes_tile_into>(m, "vocabulary_slopes_tile");
  add<&step_tile_into>(m, "vocabulary_step_tile");
}

}  // namespace
}  // namespace bfn::bindings
#endif
