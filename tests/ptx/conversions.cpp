// The table's rows for conversions between types.
#include "table.h"

namespace ptx {
namespace {

constexpr std::tuple kBytes{Type<uint8_t>{"u8"}, Type<int8_t>{"s8"}};
const auto kAllInts = std::tuple_cat(kBytes, kInts);

// Calls f(to, from) for each pair of types.
template <class To, class From, class F>
void pairs(const To& to, const From& from, F&& f) {
  std::apply(
      [&](auto... t) {
        const auto by_from = [&](auto one) { std::apply([&](auto... s) { (f(one, s), ...); }, from); };
        (by_from(t), ...);
      },
      to);
}

std::string named(const std::string& prefix, const char* to, const char* from) {
  return "cvt" + prefix + "." + to + "." + from;
}

template <class D, class S>
D clamped(S x) {
  using Limits = std::numeric_limits<D>;
  if constexpr (std::is_signed_v<S>) {
    if (x < 0 && !std::is_signed_v<D>) return 0;
    if (std::is_signed_v<D> && static_cast<int64_t>(x) < static_cast<int64_t>(Limits::min())) return Limits::min();
    if (x < 0) return static_cast<D>(x);
  }
  return static_cast<uint64_t>(x) > static_cast<uint64_t>(Limits::max()) ? Limits::max() : static_cast<D>(x);
}

void add_of_integers(Table& table) {
  pairs(kAllInts, kAllInts, [&](auto to, auto from) {
    using D = typename decltype(to)::type;
    using S = typename decltype(from)::type;
    table.add(named("", to.name, from.name), row([](S x) -> D { return static_cast<D>(x); }));
    table.add(named(".sat", to.name, from.name), row([](S x) -> D { return clamped<D>(x); }));
  });
  pairs(kFloats, kAllInts, [&](auto to, auto from) {
    using D = typename decltype(to)::type;
    using S = typename decltype(from)::type;
    table.add(named("{.rn,.rz,.rm,.rp}", to.name, from.name), row([](S x) -> D { return static_cast<D>(x); }));
  });
  pairs(kAllInts, kFloats, [&](auto to, auto from) {
    using D = typename decltype(to)::type;
    using S = typename decltype(from)::type;
    table.add(named("{.rni,.rzi,.rmi,.rpi}", to.name, from.name), row([](S x) -> D { return to_integer<D>(x); }));
  });
}

template <class N>
uint32_t packed(float high, float low) {
  return static_cast<uint32_t>(N::of(high).bits) << 16 | N::of(low).bits;
}

void add_of_floats(Table& table) {
  each(table, kFloats, "cvt{.rni,.rzi,.rmi,.rpi}.#.#", [](auto t) {
    using T = typename decltype(t)::type;
    return row([](T x) -> T { return std::nearbyint(x); });
  });
  table.add("cvt{.rni,.rzi,.rmi,.rpi}.ftz.f32.f32", flushed([](float x) -> float { return std::nearbyint(x); }));
  table.add("cvt{.rn,.rz,.rm,.rp}.f32.f64", row([](double x) -> float { return static_cast<float>(x); }));
  table.add("cvt.f64.f32", row([](float x) -> double { return x; }));
  pairs(kNarrow, kFloats, [&](auto to, auto from) {
    using N = typename decltype(to)::type;
    using S = typename decltype(from)::type;
    table.add(named("{.rn,.rz}", to.name, from.name), row([](S x) -> N { return N::of(x); }));
  });
  pairs(kFloats, kNarrow, [&](auto to, auto from) {
    using D = typename decltype(to)::type;
    using N = typename decltype(from)::type;
    table.add(named("", to.name, from.name), row([](N x) -> D { return x.wide(); }));
  });
  each(table, kNarrow, "cvt{.rn,.rz}.#x2.f32", [](auto t) {
    using N = typename decltype(t)::type;
    return row([](float high, float low) -> uint32_t { return packed<N>(high, low); });
  });
}

}  // namespace

void add_conversions(Table& table) {
  add_of_integers(table);
  add_of_floats(table);
}

}  // namespace ptx
