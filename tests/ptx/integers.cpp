// The table's rows for integers and for bits.
#include "table.h"

namespace ptx {
namespace {

constexpr std::tuple kWords{Type<uint32_t>{"u32"}, Type<uint64_t>{"u64"}, Type<int32_t>{"s32"}, Type<int64_t>{"s64"}};

// The first term of a sum or difference: the first source, or one half of the product of the first two sources.
enum class FirstTerm { kSource, kLowProduct, kHighProduct };

// A sum or difference. With kAddsCarry it adds or subtracts the lane's stored carry, too. With kStoresCarry it stores
// its own carry.
template <class T, FirstTerm kFirstTerm, bool kSubtracts, bool kAddsCarry, bool kStoresCarry>
void add_with_carry(Warp& warp, const Instruction& i, Lanes lanes) {
  uint64_t* const to = warp.result(i.results[0]);
  for_each(lanes, [&](int lane) {
    const auto number = [&](int k) { return from_bits<T>(warp.source(i.sources[k])[lane]); };
    T x = number(0);
    if (kFirstTerm == FirstTerm::kLowProduct) x = static_cast<T>(product<T>(x, number(1)));
    if (kFirstTerm == FirstTerm::kHighProduct) x = high_half<T>(product<T>(x, number(1)));
    using Wide = Wider<Unsigned<T>>;
    const Wide a = Unsigned<T>(x),
               b = Wide{Unsigned<T>(number(i.num_sources - 1))} + (kAddsCarry && warp.carries[lane]);
    const Wide result = kSubtracts ? a - b : a + b;
    if (kStoresCarry) warp.carries[lane] = result >> 8 * sizeof(T) & 1;
    to[lane] = to_bits<T>(static_cast<T>(result));
  });
}

template <FirstTerm kFirstTerm, bool kSubtracts>
void add_carrying(Table& table, const std::string& stem, const std::string& half) {
  const auto add = [&]<bool kAddsCarry, bool kStoresCarry>(const std::string& pattern) {
    each(table, kWords, pattern, []<class T>(Type<T>) {
      constexpr Run kRun = add_with_carry<T, kFirstTerm, kSubtracts, kAddsCarry, kStoresCarry>;
      return Row{.sources = kFirstTerm == FirstTerm::kSource ? 2 : 3, .base = {.run = kRun}};
    });
  };
  add.template operator()<false, true>(stem + half + ".cc.#");
  add.template operator()<true, false>(stem + "c" + half + ".#");
  add.template operator()<true, true>(stem + "c" + half + ".cc.#");
}

void add_carries(Table& table) {
  add_carrying<FirstTerm::kSource, false>(table, "add", "");
  add_carrying<FirstTerm::kSource, true>(table, "sub", "");
  add_carrying<FirstTerm::kLowProduct, false>(table, "mad", ".lo");
  add_carrying<FirstTerm::kHighProduct, false>(table, "mad", ".hi");
}

void add_arithmetic(Table& table) {
  add_each<2>(table, kInts, "add.#", []<class T>(T a, T b) { return Unsigned<T>(a) + Unsigned<T>(b); });
  add_each<2>(table, kInts, "sub.#", []<class T>(T a, T b) { return Unsigned<T>(a) - Unsigned<T>(b); });
  add_each<2>(table, kInts, "mul.lo.#", []<class T>(T a, T b) { return static_cast<T>(product<T>(a, b)); });
  add_each<2>(table, kInts, "mul.hi.#", []<class T>(T a, T b) { return high_half<T>(product<T>(a, b)); });
  add_each<3>(table, kInts, "mad.lo.#",
              []<class T>(T a, T b, T c) { return Unsigned<T>(product<T>(a, b)) + Unsigned<T>(c); });
  add_each<3>(table, kInts, "mad.hi.#",
              []<class T>(T a, T b, T c) { return Unsigned<T>(high_half<T>(product<T>(a, b))) + Unsigned<T>(c); });
  constexpr std::tuple narrower{Type<uint16_t>{"u16"}, Type<uint32_t>{"u32"}, Type<int16_t>{"s16"},
                                Type<int32_t>{"s32"}};
  each(table, narrower, "mul.wide.#", []<class T>(Type<T>) { return row([](T a, T b) { return product<T>(a, b); }); });
  each(table, narrower, "mad.wide.#", []<class T>(Type<T>) {
    return row(
        [](T a, T b, Wider<T> c) -> Wider<T> { return Unsigned<Wider<T>>(product<T>(a, b)) + Unsigned<Wider<T>>(c); });
  });
  // PTX does not define a division by 0.
  add_each<2>(table, kInts, "div.#", []<class T>(T a, T b) {
    return b == 0 ? T(-1) : b == T(-1) && T(-1) < 0 ? T(-Unsigned<T>(a)) : T(a / b);
  });
  add_each<2>(table, kInts, "rem.#", []<class T>(T a, T b) {
    return b == 0 ? a : b == T(-1) && T(-1) < 0 ? T(0) : T(a % b);
  });
  constexpr std::tuple sign{Type<int16_t>{"s16"}, Type<int32_t>{"s32"}, Type<int64_t>{"s64"}};
  add_each<1>(table, sign, "neg.#", []<class T>(T a) { return -Unsigned<T>(a); });
  add_each<1>(table, sign, "abs.#", []<class T>(T a) { return a < 0 ? -Unsigned<T>(a) : Unsigned<T>(a); });
  add_each<2>(table, kInts, "min.#", [](auto a, auto b) { return smaller(a, b); });
  add_each<2>(table, kInts, "max.#", [](auto a, auto b) { return larger(a, b); });
}

void add_logic(Table& table) {
  const auto with_predicates = std::tuple_cat(kBits, std::tuple{Type<uint8_t>{"pred"}});
  add_each<2>(table, with_predicates, "and.#", [](auto a, auto b) { return a & b; });
  add_each<2>(table, with_predicates, "or.#", [](auto a, auto b) { return a | b; });
  add_each<2>(table, with_predicates, "xor.#", [](auto a, auto b) { return a ^ b; });
  add_each<1>(table, kBits, "not.#", [](auto a) { return ~a; });
  table.add("not.pred", row([](uint8_t a) -> uint8_t { return !(a & 1); }));
  each(table, kBits, "shl.#",
       []<class T>(Type<T>) { return row([](T a, uint32_t n) -> T { return n < 8 * sizeof(T) ? a << n : 0; }); });
  each(table, std::tuple_cat(kInts, kBits), "shr.#", []<class T>(Type<T>) {
    constexpr uint32_t kWidth = 8 * sizeof(T);
    return row([](T a, uint32_t n) -> T { return n < kWidth ? a >> n : a < 0 ? T(-1) : T(0); });
  });
  // Shifts b:a, and returns the upper or the lower half.
  table.add("shf.l.wrap.b32", row([](uint32_t a, uint32_t b, uint32_t n) -> uint32_t {
              return ((uint64_t{b} << 32 | a) << (n & 31)) >> 32;
            }));
  table.add("shf.r.wrap.b32",
            row([](uint32_t a, uint32_t b, uint32_t n) -> uint32_t { return (uint64_t{b} << 32 | a) >> (n & 31); }));
  each(table, std::tuple_cat(kInts, kBits, kFloats), "selp.#", []<class Named>(Type<Named>) {
    using T = std::conditional_t<sizeof(Named) == 8, uint64_t, uint32_t>;
    return row([](T a, T b, uint8_t p) -> T { return p & 1 ? a : b; });
  });
  table.add("lop3.b32", row([](uint32_t a, uint32_t b, uint32_t c, uint32_t truth) -> uint32_t {
              uint32_t result = 0;
              for (int k = 0; k < 8; ++k) {
                if (truth >> k & 1) result |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
              }
              return result;
            }));
  table.add("prmt.b32", row([](uint32_t a, uint32_t b, uint32_t order) -> uint32_t {
              uint32_t result = 0;
              for (int k = 0; k < 4; ++k) {
                const uint32_t n = order >> 4 * k, byte = (uint64_t{b} << 32 | a) >> 8 * (n & 7) & 255;
                result |= (n & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * k;  // the fourth bit asks for the byte's sign
              }
              return result;
            }));
  table.add("bfi.b32", row([](uint32_t a, uint32_t b, uint32_t at, uint32_t length) -> uint32_t {
              at &= 255, length &= 255;
              if (at >= 32) return b;
              const uint64_t mask = ((uint64_t{1} << std::min(length, 32u)) - 1) << at;
              return (b & ~mask) | ((uint64_t{a} << at) & mask);
            }));
  // The bits above the field, and the field's bits above the number, are copies of the sign, which is the field's last
  // bit.
  each(table, kWords, "bfe.#", []<class T>(Type<T>) {
    return row([](T a, uint32_t at, uint32_t length) -> T {
      constexpr uint32_t kWidth = 8 * sizeof(T);
      at &= 255, length &= 255;
      if (length == 0) return 0;
      if (at >= kWidth) return a < 0 ? T(-1) : T(0);
      length = std::min(length, kWidth - at);
      return static_cast<T>(static_cast<Unsigned<T>>(a) << (kWidth - at - length)) >> (kWidth - length);
    });
  });
  table.add("popc.b32", row([](uint32_t a) -> uint32_t { return __builtin_popcount(a); }));
  table.add("popc.b64", row([](uint64_t a) -> uint32_t { return __builtin_popcountll(a); }));
  table.add("clz.b32", row([](uint32_t a) -> uint32_t { return a ? __builtin_clz(a) : 32; }));
  table.add("clz.b64", row([](uint64_t a) -> uint32_t { return a ? __builtin_clzll(a) : 64; }));
  table.add("brev.b32", row([](uint32_t a) -> uint32_t {
              uint32_t result = 0;
              for (int k = 0; k < 32; ++k) result |= (a >> k & 1) << (31 - k);
              return result;
            }));
}

}  // namespace

void add_integers(Table& table) {
  add_arithmetic(table);
  add_carries(table);
  add_logic(table);
}

}  // namespace ptx
