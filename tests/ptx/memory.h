// The memory that kernels access. It refuses accesses that are errors on a GPU: out of bounds, misaligned, in a
// race, or reading shared memory that nobody wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "program.h"
#include "races.h"

namespace ptx {

// The memory of a tensor, or of a variable of a module. It stores for each byte which block of which launch wrote it
// last, which block or whether several blocks read it, and what the warps of the running block did to it since the last
// barrier.
struct Allocation {
  uintptr_t begin = 0, end = 0;
  std::vector<uint32_t> writers, readers;
  std::vector<ByteHistory> histories;

  bool holds(uintptr_t address, size_t bytes) const { return begin <= address && address + bytes <= end; }
};

// All memory that kernels may access. It has a lock, since threads of torch allocate memory while a kernel runs.
class GlobalMemory {
 public:
  void add(const void* begin, size_t bytes);
  void remove(const void* begin);
  // Returns the allocation that has these bytes, or null. The pointer is valid until the memory is freed.
  Allocation* find(uintptr_t address, size_t bytes);

  // Gives each block of the launch a stamp. Later launches have larger stamps.
  void begin_launch(uint64_t blocks);
  // Records an access. Returns false for a race. A read races with a write of another block of this launch. A write
  // also races with a read of another block.
  bool touch(Allocation& allocation, uintptr_t address, size_t bytes, unsigned block, bool writes);

  // Is called when a block begins, and when all its threads have met at a barrier.
  void begin_phase() { ++phase_; }
  // Records an access. Returns false for a race with another warp of the block. `value` is what is to be written, or
  // null for a read. A write that does not change a byte is no race.
  bool touch_in_block(Allocation& allocation, uintptr_t address, size_t bytes, int warp, const char* value);

 private:
  std::mutex mutex_;
  std::map<uintptr_t, Allocation> allocations_;  // by their ends
  uint32_t first_stamp_ = 1, next_stamp_ = 1;
  uint64_t phase_ = 0;
};
GlobalMemory& global_memory();

// The shared memory of a block. It stores for each byte whether the block wrote it, and what the block's warps did to
// it.
class SharedMemory {
 public:
  void resize(size_t bytes);
  // Forgets what an earlier block wrote.
  void begin_block();
  // Is called when the block begins, and when all its threads have met at a barrier.
  void begin_phase() { ++phase_; }

  char* data() { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }
  bool is_written(size_t at, size_t bytes) const;
  // Record an access, and return false for a race.
  bool read(size_t at, size_t bytes, int warp);
  bool write(size_t at, size_t bytes, int warp, const char* value);

 private:
  std::vector<char> bytes_, written_;
  std::vector<ByteHistory> histories_;
  uint64_t phase_ = 0;
};

// Instructions on memory and on addresses. Each runs for some lanes of a warp.
void load(Warp& warp, const Instruction& i, Lanes lanes);
void store(Warp& warp, const Instruction& i, Lanes lanes);
void to_generic(Warp& warp, const Instruction& i, Lanes lanes);
void from_generic(Warp& warp, const Instruction& i, Lanes lanes);
// Loads or stores matrices of 8 rows of 8 numbers of 16 bits.
void move_matrices(Warp& warp, const Instruction& i, Lanes lanes);
// Asynchronous copies from global to shared memory.
void begin_copy(Warp& warp, const Instruction& i, Lanes lanes);
void close_group(Warp& warp, const Instruction& i, Lanes lanes);
void wait_for_groups(Warp& warp, const Instruction& i, Lanes lanes);

}  // namespace ptx
