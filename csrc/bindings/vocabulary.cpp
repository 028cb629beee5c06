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

struct TileMessages {
  Tensor x, rows, alpha;
  MaybeTensor spread, seed;
  int64_t first, num_classes;
  auto fields() const { return std::tie(x, rows, alpha, spread, seed, first, num_classes); }
};

auto step_tile_into(const TileMessages& messages, Maybe keep, Maybe noise, bool shared, bool again, Maybe state,
                    Maybe out, Given tile_numbers, Maybe top, Maybe total, Maybe kept) {
  const TileOfClasses tile = tile_of(tile_numbers, messages.x, messages.first);
  const Shape shape = shape_of(tile_numbers);
  const auto fits = [&](Maybe x) { return !x || shape_of(*x) == shape; };
  check(fits(out) && fits(state), "the state", " does not fit the tile");
  const bool all = top && total && (again || kept), none = !again && !top && !total && !kept;
  check(all || none, "top, total and kept", " must be given together");
  return in_type_of(tile_numbers, [&]<class T>(T) {
    step_tile(StepTile<T>{
        .tile = tile,
        .num_classes = messages.num_classes,
        .rows = numbers<int64_t>("rows", messages.rows, tile.tokens),
        .alpha = numbers<T>("alpha", messages.alpha, tile.tokens),
        .spread = numbers<T>("spread", messages.spread, tile.tokens),
        .keep = numbers<T>("keep", keep, tile.tokens),
        .noise = messages.spread ? noise_of(messages.seed, noise, shape, kSender) : Noise{},
        .state = view("state", state, shape),
        .out = view_of_out(out, shape),
        .shared = shared,
        .again = again,
        .top = numbers<T>("top", top, tile.tokens),
        .total = numbers<T>("total", total, tile.tokens),
        .kept = numbers<T>("kept", kept, tile.tokens),
        .numbers = numbers<T>("numbers", tile_numbers, tile.tokens * tile.classes),
    });
  });
}

BFN_OPERATORS(m) {
  add<&sums_tile_into>(m, "vocabulary_sums_tile");
  add<&slopes_tile_into>(m, "vocabulary_slopes_tile");
  add<&step_tile_into>(m, "vocabulary_step_tile");
}

}  // namespace
}  // namespace bfn::bindings
#endif
