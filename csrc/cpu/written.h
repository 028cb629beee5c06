// How numbers are written in errors.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

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

}  // namespace bfn
