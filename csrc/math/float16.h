// Floating-point types of 16 bits. A conversion from float rounds once. A conversion from double rounds to float first.
#pragma once

#include "common.h"

namespace bfn {

struct BFloat16 {
  uint16_t bits;
  BFN_HD operator float() const { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  BFloat16() = default;
  BFN_HD explicit BFloat16(float x) {
    const uint32_t u = bit_cast<uint32_t>(x);
    bits = x != x ? 0x7FC0 : static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
  }
  BFN_HD explicit BFloat16(double x) : BFloat16(static_cast<float>(x)) {}
};

// The conversions use only integer operations, selections, and an addition or subtraction of floats, since compilers
// vectorise these. They do not vectorise conversions of _Float16.
struct Half {
  uint16_t bits;
  BFN_HD operator float() const {
    constexpr uint32_t kExponent = 0x7C00u << 13, kRebias = (127 - 15) << 23;
    constexpr float kLeastNormal = 6.103515625e-5f;
    const uint32_t magnitude = (bits & 0x7FFFu) << 13, exponent = magnitude & kExponent;
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude + kRebias + (1 << 23)) - kLeastNormal);
    const uint32_t normal =
        magnitude + kRebias + (exponent == kExponent ? kRebias : 0);  // infinity and NaN keep the largest exponent
    return bit_cast<float>((exponent == 0 ? subnormal : normal) | (bits & 0x8000u) << 16);
  }
  Half() = default;
  BFN_HD explicit Half(float x) {
    constexpr uint32_t kInfinity = 0x7F800000, kTooLarge = (127 + 16) << 23, kNormal = (127 - 14) << 23;
    const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7FFFFFFF;
    const uint32_t normal = (magnitude - ((127 - 15) << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
    // Adding 0.5 rounds: floats from 0.5 to 1 are 2^-24 apart, as subnormal numbers of Half are.
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) & 0x7FFFFF;
    const uint32_t special = magnitude > kInfinity ? 0x7E00 : 0x7C00;
    const uint32_t finite = magnitude < kNormal ? subnormal : normal;
    bits = static_cast<uint16_t>((magnitude >= kTooLarge ? special : finite) | (u >> 16 & 0x8000));
  }
  BFN_HD explicit Half(double x) : Half(static_cast<float>(x)) {}
};

}  // namespace bfn
