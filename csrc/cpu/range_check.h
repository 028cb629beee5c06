// Refuses numbers out of range, which would silently give plausible results. Threads record such a number, and the
// error is thrown after the parallel loop.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "format.h"

namespace bfn {

// NaN is accepted.
template <class T>
class RangeCheck {
 public:
  // `positive` says that `low`, which is 0, lies outside the range, too.
  RangeCheck(const char* name, double low, double high = HUGE_VAL, bool positive = false)
      : name_(name), low_(low), high_(high), positive_(positive) {}

  void check(const T* x, int64_t length, const uint8_t* mask = nullptr) {
    const T low = static_cast<T>(low_), high = static_cast<T>(high_);
    if (positive_) return find(x, length, mask, [low](T v) { return v <= low; });
    if (high_ == HUGE_VAL) return find(x, length, mask, [low](T v) { return v < low; });
    find(x, length, mask, [low, high](T v) { return (v < low) | (v > high); });
  }
  void throw_if_found() const {
    if (!any_) return;
    const std::string range = "lie in [" + formatted(low_) + ", " + formatted(high_) + "]";
    throw std::invalid_argument(std::string(name_) + " must " + (positive_ ? "be positive" : range) + ", got " +
                                formatted(found_));
  }

 private:
  template <class F>
  void find(const T* x, int64_t length, const uint8_t* mask, F&& is_outside) {
    int outside = 0;
    for (int64_t i = 0; i < length; ++i) outside |= is_outside(x[i]);
    for (int64_t i = 0; outside && i < length; ++i) {
      if (is_outside(x[i]) && !(mask && !mask[i])) found_ = x[i], any_ = true;
    }
  }

  const char* const name_;
  const double low_, high_;
  const bool positive_;
  std::atomic<bool> any_{false};
  std::atomic<T> found_{T(0)};
};

}  // namespace bfn
