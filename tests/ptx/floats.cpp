// The table's rows for floating-point arithmetic and for comparisons.
#include "table.h"

namespace ptx {
namespace {

template <class T>
auto wide(T x) {
  if constexpr (std::is_arithmetic_v<T>) {
    return x;
  } else {
    return x.wide();
  }
}

bool combined(Combine by, bool is, bool with) {
  switch (by) {
    case Combine::kAnd:
      return is && with;
    case Combine::kOr:
      return is || with;
    case Combine::kXor:
      return is != with;
    default:
      return is;
  }
}

// Calls f(lane, combine) for the lanes. combine(outcome) combines the outcome of a comparison with the predicate
// operand.
template <class F>
void for_comparisons(const Warp& warp, const Instruction& i, Lanes lanes, F&& f) {
  const uint64_t* other = i.combine == Combine::kNone ? nullptr : warp.source(i.sources[2]);
  for_lanes(lanes, [&](int lane) {
    const bool with = other && (other[lane] & 1) != i.negated;
    f(lane, [&](bool is) { return combined(i.combine, is, with); });
  });
}

// If there is a second result, it is the combined outcome of the opposite comparison.
template <class F, class T>
void compare(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t *a = warp.source(i.sources[0]), *b = warp.source(i.sources[1]);
  uint64_t *yes = warp.result(i.results[0]), *no = warp.result(i.num_results > 1 ? i.results[1] : -1);
  const bool has_no = i.num_results > 1;
  for_comparisons(warp, i, lanes, [&](int lane, auto&& combine) {
    const bool is = F{}(wide(from_bits<T>(a[lane])), wide(from_bits<T>(b[lane])));
    yes[lane] = combine(is);
    if (has_no) no[lane] = combine(!is);
  });
}

// Each source has two narrow numbers. The first result compares the lower ones, and the second result the upper ones.
template <class F, class T>
void compare_pairs(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t *a = warp.source(i.sources[0]), *b = warp.source(i.sources[1]);
  uint64_t *lower = warp.result(i.results[0]), *upper = warp.result(i.results[1]);
  for_comparisons(warp, i, lanes, [&](int lane, auto&& combine) {
    const auto is = [&](int shift) {
      return F{}(wide(from_bits<T>(a[lane] >> shift)), wide(from_bits<T>(b[lane] >> shift)));
    };
    const bool below = is(0), above = is(16);
    lower[lane] = combine(below);
    upper[lane] = combine(above);
  });
}

template <class Types, class F>
void add_comparison(Table& table, const std::string& name, const Types& types, F) {
  const std::pair<const char*, Combine> combinations[] = {
      {"", Combine::kNone}, {".and", Combine::kAnd}, {".or", Combine::kOr}, {".xor", Combine::kXor}};
  for (const auto& [suffix, combine] : combinations) {
    const std::string full = "setp." + name + suffix;
    const auto made = [&](Run run) {
      return Row{.sources = combine == Combine::kNone ? 2 : 3, .base = {.run = run, .combine = combine}};
    };
    each(table, types, full + ".#", [&]<class T>(Type<T>) { return made(compare<F, T>); });
    if constexpr (!std::is_integral_v<typename std::tuple_element_t<std::tuple_size_v<Types> - 1, Types>::type>) {
      each(table, kNarrow, full + ".#x2", [&]<class T>(Type<T>) { return made(compare_pairs<F, T>); });
    }
  }
}

void add_comparisons(Table& table) {
  const auto floats = std::tuple_cat(kFloats, kNarrow);
  const auto numbers = std::tuple_cat(kInts, floats);
  add_comparison(table, "eq", kBits, [](auto a, auto b) { return a == b; });
  add_comparison(table, "eq", numbers, [](auto a, auto b) { return a == b; });
  add_comparison(table, "lt", numbers, [](auto a, auto b) { return a < b; });
  add_comparison(table, "le", numbers, [](auto a, auto b) { return a <= b; });
  add_comparison(table, "gt", numbers, [](auto a, auto b) { return a > b; });
  add_comparison(table, "ge", numbers, [](auto a, auto b) { return a >= b; });
  // For floats, `ne` is false if one number is NaN. Comparisons whose name ends in u are then true.
  add_comparison(table, "ne", std::tuple_cat(kInts, kBits), [](auto a, auto b) { return a != b; });
  add_comparison(table, "ne", floats, [](auto a, auto b) { return a < b || a > b; });
  add_comparison(table, "equ", floats, [](auto a, auto b) { return !(a < b || a > b); });
  add_comparison(table, "neu", floats, [](auto a, auto b) { return !(a == b); });
  add_comparison(table, "ltu", floats, [](auto a, auto b) { return !(a >= b); });
  add_comparison(table, "leu", floats, [](auto a, auto b) { return !(a > b); });
  add_comparison(table, "gtu", floats, [](auto a, auto b) { return !(a <= b); });
  add_comparison(table, "geu", floats, [](auto a, auto b) { return !(a < b); });
  add_comparison(table, "num", floats, [](auto a, auto b) { return a == a && b == b; });
  add_comparison(table, "nan", floats, [](auto a, auto b) { return a != a || b != b; });
}

// Adds an operation with kSources sources for each type, and its form for float32 that flushes subnormal numbers.
template <int kSources, class Types, class F>
void add_float(Table& table, const Types& types, const std::string& pattern, F f) {
  add_each<kSources>(table, types, pattern + ".#", f);
  add_each<kSources>(table, kFloat, pattern + ".ftz.#", Flushed<F>());
}

void add_exact(Table& table) {
  const std::string any = "{,.rn,.rz,.rm,.rp}", some = "{.rn,.rz,.rm,.rp}";
  add_float<2>(table, kFloats, "add" + any, [](auto a, auto b) { return a + b; });
  add_float<2>(table, kFloats, "sub" + any, [](auto a, auto b) { return a - b; });
  add_float<2>(table, kFloats, "mul" + any, [](auto a, auto b) { return a * b; });
  add_float<3>(table, kFloats, "fma" + some, [](auto a, auto b, auto c) { return std::fma(a, b, c); });
  add_float<2>(table, kFloats, "div" + some, [](auto a, auto b) { return a / b; });
  add_float<1>(table, kFloats, "rcp" + some, [](auto a) { return 1 / a; });
  add_float<1>(table, kFloats, "sqrt" + some, [](auto a) { return std::sqrt(a); });
  add_float<1>(table, kFloats, "neg", [](auto a) { return -a; });
  add_float<1>(table, kFloats, "abs", [](auto a) { return std::fabs(a); });
  add_float<2>(table, kFloats, "min", [](auto a, auto b) { return smaller(a, b); });
  add_float<2>(table, kFloats, "max", [](auto a, auto b) { return larger(a, b); });
  add_float<2>(table, kFloat, "min.NaN", [](auto a, auto b) { return a != a || b != b ? a + b : smaller(a, b); });
  add_float<2>(table, kFloat, "max.NaN", [](auto a, auto b) { return a != a || b != b ? a + b : larger(a, b); });
  add_each<1>(table, kNarrow, "abs.#", []<class N>(N a) -> N { return {static_cast<uint16_t>(a.bits & 0x7fff)}; });
  add_each<1>(table, kNarrow, "neg.#", []<class N>(N a) -> N { return {static_cast<uint16_t>(a.bits ^ 0x8000)}; });
  table.add("abs.{bf16x2,f16x2}", row([](uint32_t a) -> uint32_t { return a & 0x7fff7fff; }));
  table.add("neg.{bf16x2,f16x2}", row([](uint32_t a) -> uint32_t { return a ^ 0x80008000; }));
  add_each<2>(table, kFloats, "copysign.#", [](auto sign, auto size) { return std::copysign(size, sign); });
}

// The errors are those in the PTX manual.
void add_approximations(Table& table) {
  add_float<2>(table, kFloat, "div{.full,.approx}",
               [](float a, float b) { return approximate(double(a) / double(b), {.ulps = 2}); });
  add_float<1>(table, kFloat, "rcp.approx", [](float a) { return approximate(1 / double(a), {.ulps = 1}); });
  add_float<1>(table, kFloat, "sqrt.approx",
               [](float a) { return approximate(std::sqrt(double(a)), {.relative = std::exp2(-23)}); });
  add_float<1>(table, kFloat, "rsqrt.approx",
               [](float a) { return approximate(1 / std::sqrt(double(a)), {.relative = std::exp2(-22.9)}); });
  add_float<1>(table, kFloat, "ex2.approx", [](float a) { return approximate(std::exp2(double(a)), {.ulps = 2}); });
  add_float<1>(table, kFloat, "lg2.approx", [](float a) {
    const bool near_one = a > 0.5f && a < 2;
    return approximate(std::log2(double(a)),
                       near_one ? Error{.absolute = std::exp2(-22)} : Error{.relative = std::exp2(-22)});
  });
  add_float<1>(table, kFloat, "sin.approx",
               [](float a) { return approximate(std::sin(double(a)), {.absolute = std::exp2(-20.5)}); });
  add_float<1>(table, kFloat, "cos.approx",
               [](float a) { return approximate(std::cos(double(a)), {.absolute = std::exp2(-20.5)}); });
  table.add("tanh.approx.f32",
            row([](float a) { return approximate(std::tanh(double(a)), {.relative = std::exp2(-11)}); }));
  // The lower half of the result is 0.
  table.add("rcp.approx.ftz.f64", row([](double a) { return from_bits<double>(to_bits(1 / a) & 0xffffffff00000000); }));
}

// The fused operation with one rounding, by which ptxas replaces two instructions.
template <class T>
Run fused_as(bool negate_product, bool negate_sum) {
  const Row made = negate_product ? row([](T a, T b, T c) { return std::fma(-a, b, c); })
                   : negate_sum   ? row([](T a, T b, T c) { return std::fma(a, b, -c); })
                                  : row([](T a, T b, T c) { return std::fma(a, b, c); });
  return made.base.run;
}

}  // namespace

Run fused(bool is_double, bool negate_product, bool negate_sum) {
  return is_double ? fused_as<double>(negate_product, negate_sum) : fused_as<float>(negate_product, negate_sum);
}

void add_floats(Table& table) {
  add_comparisons(table);
  add_exact(table);
  add_approximations(table);
}

}  // namespace ptx
