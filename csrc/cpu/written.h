// Numbers in the words of errors.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace bfn {

// As Python writes it.
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
