// Formats numbers for error messages.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace bfn {

// Formats a number as Python does: with the fewest digits from which Python would read the same number.
inline std::string formatted(double x) {
  const double size = std::abs(x);
  const bool plain = x == 0 || (size >= 1e-4 && size < 1e16);
  char text[64];
  for (int digits = 1; digits <= (plain ? 21 : 17); ++digits) {
    std::snprintf(text, sizeof(text), plain ? "%.*f" : "%.*g", digits, x);
    if (std::strtod(text, nullptr) == x) break;
  }
  return text;
}

// Formats sizes as Python formats a tuple.
inline std::string formatted(const std::vector<int64_t>& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + (sizes.size() == 1 ? ",)" : ")");
}

}  // namespace bfn
