// Memory that kernels reach, and what a GPU would punish: accesses out of bounds, misaligned ones, races.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "program.h"
#include "races.h"

namespace ptx {

// A tensor's memory, or a variable of a module. For each byte, which block of which launch wrote or read it last, and
// what the warps of the running block did to it.
struct Allocation {
  uintptr_t begin = 0, end = 0;
  std::vector<uint32_t> writers, readers;
  std::vector<ByteHistory> histories;

  bool holds(uintptr_t address, size_t bytes) const { return begin <= address && address + bytes <= end; }
};

// All memory that kernels may reach. Threads of torch allocate while a kernel runs.
class GlobalMemory {
 public:
  void add(const void* begin, size_t bytes);
  void remove(const void* begin);
  // What holds these bytes, or null. It stays there as long as its memory does.
  Allocation* find(uintptr_t address, size_t bytes);

  // Stamps of the blocks of a launch are larger than those of earlier ones.
  void begin_launch(uint64_t blocks);
  // Whether no other block of this launch wrote the bytes, and, where this is a write, none has read them.
  bool touch(Allocation& allocation, uintptr_t address, size_t bytes, unsigned block, bool writes);

  // A block begins, or all its threads have met.
  void begin_phase() { ++phase_; }
  // Whether the access is in no race with other warps of the block. value: what is to be written, or null for a read.
  // To write what is there already changes nothing, and is no race.
  bool touch_in_block(Allocation& allocation, uintptr_t address, size_t bytes, int warp, const char* value);

 private:
  std::mutex mutex_;
  std::map<uintptr_t, Allocation> allocations_;  // by their ends
  uint32_t first_stamp_ = 1, next_stamp_ = 1;
  uint64_t phase_ = 0;
};
GlobalMemory& global_memory();

// The shared memory of a block. For each byte, whether the block wrote it, and what its warps did to it.
class SharedMemory {
 public:
  void resize(size_t bytes);
  // Forgets what an earlier block wrote.
  void begin_block();
  // The block begins, or all its threads have met.
  void begin_phase() { ++phase_; }

  char* data() { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }
  bool is_written(size_t at, size_t bytes) const;
  // Whether there is no race.
  bool read(size_t at, size_t bytes, int warp);
  bool write(size_t at, size_t bytes, int warp, const char* value);

 private:
  std::vector<char> bytes_, written_;
  std::vector<ByteHistory> histories_;
  uint64_t phase_ = 0;
};

// Instructions that access memory; their lanes are those of a warp.
void load(Warp& warp, const Instruction& i, Lanes lanes);
void store(Warp& warp, const Instruction& i, Lanes lanes);
void to_generic(Warp& warp, const Instruction& i, Lanes lanes);
void from_generic(Warp& warp, const Instruction& i, Lanes lanes);
void load_matrices(Warp& warp, const Instruction& i, Lanes lanes);
void store_matrices(Warp& warp, const Instruction& i, Lanes lanes);
void load_matrices_transposed(Warp& warp, const Instruction& i, Lanes lanes);
void store_matrices_transposed(Warp& warp, const Instruction& i, Lanes lanes);
// Copies from global to shared memory that go on beside other work.
void begin_copy(Warp& warp, const Instruction& i, Lanes lanes);
void close_group(Warp& warp, const Instruction& i, Lanes lanes);
void wait_for_groups(Warp& warp, const Instruction& i, Lanes lanes);

}  // namespace ptx
