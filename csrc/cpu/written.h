// How numbers are written in errors.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace bfn {

// Writes a number as Python does: by the fewest digits that give it back.
inline std::string written(double x) {
  const double size = std::abs(x);
  const bool plain = x == 0 || (size >= 1e-4 && size < 1e16);
  char text[64];
  for (int digits = 1; digits <= (plain ? 21 : 17); ++digits) {
    std::snprintf(text, sizeof(text), plain ? "%.*f" : "%.*g", digits, x);
    if (std::strtod(text, nullptr) == x) break;
  }
  return text;
}

// Writes sizes as Python writes a tuple.
inline std::string written(const std::vector<int64_t>& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + (sizes.size() == 1 ? ",)" : ")");
}

}  // namespace bfn
