// Stores a class that is out of range. Threads record it, and the error is thrown after the parallel loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "view.h"

namespace bfn {

class BadClass {
 public:
  void record(int64_t x) {
    value_ = x;
    found_ = true;
  }
  void throw_if_found(const char* name, int64_t num_classes) const {
    if (!found_) return;
    throw std::out_of_range(std::string(name) + " must hold classes in [0, " + std::to_string(num_classes) + "), got " +
                            std::to_string(value_));
  }

 private:
  std::atomic<bool> found_{false};
  std::atomic<int64_t> value_{0};
};

// Computes the signs of the classes [start, start + length). If a class is out of range, its sign is arbitrary, and
// `bad` records it unless its mask is 0.
template <class T>
void load_signs(const View& x, int64_t start, int64_t length, const uint8_t* mask, T* __restrict s, BadClass& bad) {
  bool any_outside = false;
  with_type(x.dtype, x.data, [&](const auto* data) {
    using Class = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
    if constexpr (std::is_integral_v<Class>) {
      for_runs(x, start, length, [&](int64_t offset, int64_t stride, int64_t at, int64_t run) {
        const Class* from = data + offset;
        T* to = s + at;
        Class outside = 0;
        const auto read = [&](auto step) {
          for (int64_t i = 0; i < run; ++i) {
            outside |= from[i * step] & ~Class(1);
            to[i] = 2 * static_cast<T>(static_cast<int32_t>(from[i * step])) - 1;
          }
        };
        if (stride == 1) {
          read(std::integral_constant<int64_t, 1>());
        } else {
          read(stride);
        }
        any_outside |= outside != 0;
      });
    } else {
      throw std::invalid_argument("classes must be integers");
    }
  });
  for (int64_t i = 0; any_outside && i < length; ++i) {
    int64_t buffer = 0;
    const int64_t found = *load(x, start + i, 1, &buffer);
    if ((found < 0 || found > 1) && !(mask && !mask[i])) bad.record(found);
  }
}

}  // namespace bfn
