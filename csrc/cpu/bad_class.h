// Stores a class that is out of range. Threads record it, and the error is thrown after the parallel loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>

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

}  // namespace bfn
