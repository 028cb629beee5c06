// The machine that runs kernels. It runs one block after the other. A block consists of warps of 32 lanes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "memory.h"
#include "program.h"

namespace ptx {

struct Dim {
  unsigned x, y, z;
};

struct Block {
  Kernel& kernel;
  Dim size, grid;
  Dim number{};
  unsigned linear = 0;  // the block's index among all blocks
  SharedMemory shared;
};

// An asynchronous copy into shared memory. It is done when its lane waits for the group of copies to which it belongs.
struct PendingCopy {
  const Instruction* instruction;
  int lane;
  uint64_t to, group;
  std::array<char, 16> value;
};

// A product of matrices by four warps at once. Each warp computes 16 rows of it, at the latest possible time: when it
// waits for the group of products to which the product belongs. So a kernel that reads the result too early
// gets an old value. If it overwrites a matrix too early, the product is computed from the new numbers.
struct PendingProduct {
  const Instruction* instruction;
  void (*finish)(Warp&, const PendingProduct&);
  uint64_t group, a, b;  // a and b describe matrices in shared memory
  bool adds;             // whether the product is added to the old sums
};

// The values that a warp loaded while another warp of its block wrote to the same memory. Triton lets all warps load
// what one of them needs. So such a load is an error only if its value is used: stored, passed to other lanes, or
// branched on. This class tracks which registers depend on such values.
class RacedValues {
 public:
  void begin(int num_registers) {
    lanes_.assign(num_registers + 1, 0);
    last_load_ = nullptr;
  }
  // The last load that raced, or null.
  const Instruction* last_load() const { return last_load_; }
  void record(const Instruction& i, int lane) {
    for (int k = 0; k < i.num_results; ++k) {
      if (i.results[k] >= 0) lanes_[i.results[k]] |= Lanes{1} << lane;
    }
    last_load_ = &i;
  }
  // Marks the results of an instruction that has marked sources. Returns the lanes that use a marked value. `lanes` run
  // the instruction, and `group` are the lanes that read its guard.
  Lanes propagate(const Instruction& i, Lanes lanes, Lanes group);

 private:
  std::vector<Lanes> lanes_;  // for each register, the lanes in which it is marked
  const Instruction* last_load_ = nullptr;
};
inline const char* const kRaceBetweenWarps = "race between warps in global memory";

struct Warp {
  Warp(Block& of, int place) : block(&of), index(place) {
    registers.resize(static_cast<size_t>(of.kernel.num_registers + 1) * kLanes);
    lane_memory.resize(static_cast<size_t>(of.kernel.lane_bytes) * kLanes);
  }

  Block* block;
  int index;
  std::vector<uint64_t> registers;  // 32 numbers for each register; the last register receives results that are dropped
  std::vector<char> lane_memory;
  Lanes live = 0, waiting = 0, at_barrier = 0;
  std::vector<uint32_t> issued;        // for each instruction in this block, if options.count is set
  std::array<int, kLanes> place{};     // the next instruction of each lane
  std::array<bool, kLanes> carries{};  // the carry of each lane's last sum or difference with .cc
  RacedValues raced;
  std::vector<PendingCopy> copies;
  std::array<uint64_t, kLanes> groups{};  // how many groups of copies each lane has closed
  std::vector<PendingProduct> products;
  uint64_t product_groups = 0;  // how many groups of products the warp has closed

  const uint64_t* source(int i) const {
    return i >= 0 ? &registers[static_cast<size_t>(i) * kLanes]
                  : &block->kernel.constants[static_cast<size_t>(~i) * kLanes];
  }
  uint64_t* result(int i) { return &registers[static_cast<size_t>(i >= 0 ? i : block->kernel.num_registers) * kLanes]; }
  char* memory_of(int lane) { return lane_memory.data() + static_cast<size_t>(lane) * block->kernel.lane_bytes; }
};

// Calls f(lane) for some lanes, one after the other.
template <class F>
void for_each(Lanes lanes, F&& f) {
  for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
}

// Calls f(lane) for some lanes in any order. If `lanes` are all lanes, the compiler vectorises the loop.
template <class F>
void for_lanes(Lanes lanes, F&& f) {
  if (lanes != kAllLanes) return for_each(lanes, f);
#pragma GCC ivdep
  for (int lane = 0; lane < kLanes; ++lane) f(lane);
}

// The lanes among `of` where a predicate is true.
inline Lanes where_true(const uint64_t* predicate, Lanes of) {
  Lanes lanes = 0;
  for (int lane = 0; lane < kLanes; ++lane) lanes |= static_cast<Lanes>(predicate[lane] & 1) << lane;
  return lanes & of;
}

// Throws an error that says what is wrong, in which thread and at which instruction.
[[noreturn]] void fail(const Warp& warp, const Instruction& instruction, int lane, const std::string& what);

// In which order the blocks of a grid run.
enum class Order { kForward, kBackward, kShuffled };

struct Options {
  Order order = Order::kForward;
  bool races = true;     // whether to look for races
  bool count = false;    // whether to count what is executed
  bool contract = true;  // whether to fuse products and sums as ptxas does; read when a kernel is first launched
  int architecture = 90;
};
inline Options options;

// Runs a grid. `arguments` are pointers to the arguments, as for cudaLaunchKernel.
void launch(Kernel& kernel, Dim grid, Dim block, void* const* arguments, size_t dynamic_shared);

// Counts an access to memory. Each lane accesses `bytes` bytes at its address plus the instruction's offset.
void count_access(const Warp& warp, const Instruction& i, Lanes lanes, const uint64_t* addresses, int bytes);
// Stores how often a warp issued each instruction in its block, unless an earlier warp issued as many or more in all.
void keep_worst(Kernel& kernel, const Warp& warp);
// Adds the counts of a launch to the kernel's total counts.
void collect(Kernel& kernel);
// Returns the total counts since the last call. There is a line for each kernel and name of an instruction, with the
// fields of Executed.
std::string collected();

}  // namespace ptx
