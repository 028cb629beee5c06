// Races between the warps of a block.
#pragma once

#include <cstdint>

namespace ptx {

// The warps that read and wrote a byte since the last barrier of their block. A phase is the time between two barriers.
// Each phase has a number of its own.
class ByteHistory {
 public:
  bool is_written(uint64_t phase) const { return phase_ == phase && writers_; }

  // Records a read, and returns false for a race. A warp may read what it wrote, even if other warps wrote the same
  // value.
  bool read(uint64_t phase, int warp) {
    begin(phase);
    if (writers_ && !(writers_ & bit(warp))) return false;
    readers_ |= bit(warp);
    return true;
  }

  // Records a write, and returns false for a race. Several warps may write the same value, and then read it.
  bool write(uint64_t phase, int warp, bool changes) {
    begin(phase);
    const uint32_t others = ~bit(warp);
    if (others & (changes ? readers_ | writers_ : readers_ & ~writers_)) return false;
    writers_ |= bit(warp);
    return true;
  }

 private:
  uint64_t phase_ = 0;
  uint32_t readers_ = 0, writers_ = 0;  // a bit for each warp

  static uint32_t bit(int warp) { return uint32_t{1} << warp; }
  void begin(uint64_t phase) {
    if (phase_ != phase) *this = {}, phase_ = phase;
  }
};

}  // namespace ptx
