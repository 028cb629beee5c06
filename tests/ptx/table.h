// Helpers that make the rows of the table of instructions.
#pragma once

#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "arithmetic.h"
#include "instructions.h"
#include "machine.h"

namespace ptx {

inline void nothing(Warp&, const Instruction&, Lanes) {}

class Table {
 public:
  // Adds a row for each name of a pattern: "add{,.rn}.f32" stands for "add.f32" and "add.rn.f32".
  void add(const std::string& pattern, const Row& row);
  const Row* find(const std::string& name) const;

 private:
  std::unordered_map<std::string, Row> rows_;
};

template <class T>
struct Type {
  using type = T;
  const char* name;
};
constexpr std::tuple kInts{Type<uint16_t>{"u16"}, Type<uint32_t>{"u32"}, Type<uint64_t>{"u64"},
                           Type<int16_t>{"s16"},  Type<int32_t>{"s32"},  Type<int64_t>{"s64"}};
constexpr std::tuple kBits{Type<uint16_t>{"b16"}, Type<uint32_t>{"b32"}, Type<uint64_t>{"b64"}};
constexpr std::tuple kFloats{Type<float>{"f32"}, Type<double>{"f64"}};
constexpr std::tuple kFloat{Type<float>{"f32"}};
constexpr std::tuple kNarrow{Type<BFloat16>{"bf16"}, Type<Half>{"f16"}};

// Adds the row make(Type) for each type. The type's name replaces # in the pattern.
template <class Types, class F>
void each(Table& table, const Types& types, const std::string& pattern, F&& make) {
  const auto one = [&](auto type) {
    std::string named = pattern;
    for (size_t at; (at = named.find('#')) != std::string::npos;) named.replace(at, 1, type.name);
    table.add(named, make(type));
  };
  std::apply([&](auto... type) { (one(type), ...); }, types);
}

// Runs F for each lane. A result of float32 that is NaN becomes the canonical NaN.
template <class F, class R, class... S>
void run_lanes(Warp& warp, const Instruction& i, Lanes lanes) {
  const RoundingMode rounding(i.rounding);
  uint64_t* to = warp.result(i.results[0]);
  const auto with = [&]<size_t... k>(std::index_sequence<k...>) {
    const uint64_t* const from[] = {warp.source(i.sources[k])...};
    for_lanes(lanes, [&](int lane) {
      R result = F{}(from_bits<S>(from[k][lane])...);
      if constexpr (std::is_same_v<R, float>) result = canonical(result);
      to[lane] = to_bits<R>(result);
    });
  };
  with(std::index_sequence_for<S...>{});
}

template <class F, class R, class... S>
Row row_of(R (F::*)(S...) const) {
  return {.sources = sizeof...(S), .base = {.run = run_lanes<F, R, S...>}};
}
// Makes the row of an instruction that computes its result from its sources, lane by lane.
template <class F>
Row row(F) {
  return row_of<F>(&F::operator());
}

template <class T, size_t>
using Repeated = T;

// Makes the row of an instruction whose result and sources have the type T. It has a source for each index.
template <class F, class T, size_t... k>
Row row_of_type(std::index_sequence<k...>) {
  return {.sources = sizeof...(k), .base = {.run = run_lanes<F, T, Repeated<T, k>...>}};
}
// Adds a row for each type. The result and the kSources sources have this type.
template <int kSources, class Types, class F>
void add_each(Table& table, const Types& types, const std::string& pattern, F) {
  each(table, types, pattern, []<class T>(Type<T>) { return row_of_type<F, T>(std::make_index_sequence<kSources>()); });
}

// Makes a function of float32 flush subnormal sources and results to 0.
template <class F>
struct Flushed {
  template <class... S>
  float operator()(S... x) const {
    return flush(F{}(flush(x)...));
  }
};

}  // namespace ptx
