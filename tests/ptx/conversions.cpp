// The table's rows for conversions between types.
#include "table.h"

namespace ptx {
namespace {

constexpr std::tuple kBytes{Type<uint8_t>{"u8"}, Type<int8_t>{"s8"}};
const auto kAllInts = std::tuple_cat(kBytes, kInts);

// Calls f(to, from) for each pair of types.
template <class To, class From, class F>
void pairs(const To& to, const From& from, F&& f) {
  const auto with_each = [&](auto t) { std::apply([&](auto... s) { (f(t, s), ...); }, from); };
  std::apply([&](auto... t) { (with_each(t), ...); }, to);
}

std::string named(const std::string& prefix, const char* to, const char* from) {
  return "cvt" + prefix + "." + to + "." + from;
}

template <class D, class S>
D clamped(S x) {
  using Limits = std::numeric_limits<D>;
  if (std::cmp_less(x, Limits::min())) return Limits::min();
  return std::cmp_greater(x, Limits::max()) ? Limits::max() : static_cast<D>(x);
}

void add_of_integers(Table& table) {
  pairs(kAllInts, kAllInts, [&]<class D, class S>(Type<D> to, Type<S> from) {
    table.add(named("", to.name, from.name), row([](S x) -> D { return static_cast<D>(x); }));
    table.add(named(".sat", to.name, from.name), row([](S x) -> D { return clamped<D>(x); }));
  });
  pairs(kFloats, kAllInts, [&]<class D, class S>(Type<D> to, Type<S> from) {
    table.add(named("{.rn,.rz,.rm,.rp}", to.name, from.name), row([](S x) -> D { return static_cast<D>(x); }));
  });
  pairs(kAllInts, kFloats, [&]<class D, class S>(Type<D> to, Type<S> from) {
    table.add(named("{.rni,.rzi,.rmi,.rpi}", to.name, from.name), row([](S x) -> D { return to_integer<D>(x); }));
  });
}

void add_of_floats(Table& table) {
  const auto whole = [](auto x) { return std::nearbyint(x); };
  add_each<1>(table, kFloats, "cvt{.rni,.rzi,.rmi,.rpi}.#.#", whole);
  add_each<1>(table, kFloat, "cvt{.rni,.rzi,.rmi,.rpi}.ftz.#.#", Flushed<decltype(whole)>());
  table.add("cvt{.rn,.rz,.rm,.rp}.f32.f64", row([](double x) -> float { return static_cast<float>(x); }));
  table.add("cvt.f64.f32", row([](float x) -> double { return x; }));
  pairs(kNarrow, kFloats, [&]<class N, class S>(Type<N> to, Type<S> from) {
    table.add(named("{.rn,.rz}", to.name, from.name), row([](S x) -> N { return N::of(x); }));
  });
  pairs(kFloats, kNarrow, [&]<class D, class N>(Type<D> to, Type<N> from) {
    table.add(named("", to.name, from.name), row([](N x) -> D { return x.wide(); }));
  });
  each(table, kNarrow, "cvt{.rn,.rz}.#x2.f32", []<class N>(Type<N>) {
    return row([](float high, float low) { return uint32_t{N::of(high).bits} << 16 | N::of(low).bits; });
  });
}

}  // namespace

void add_conversions(Table& table) {
  add_of_integers(table);
  add_of_floats(table);
}

}  // namespace ptx
