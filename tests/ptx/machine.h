// The machine that runs kernels: blocks of warps of 32 lanes, one block after the other.
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
  unsigned linear = 0;  // its number among all blocks
  SharedMemory shared;
};

// What a copy will write into shared memory, once its lane waits for the group of copies that it belongs to.
struct PendingCopy {
  const Instruction* by;
  int lane;
  uint64_t to, group;
  std::array<char, 16> value;
};

// Numbers that a warp loaded while another one of its block wrote there. Triton lets all warps load what one of them
// needs, so that it is a race only if the number is used: stored, given to other lanes, or branched upon.
class Doubts {
 public:
  void begin(int num_registers) {
    lanes_.assign(num_registers + 1, 0);
    by_ = nullptr;
  }
  // The load that raced last, or null.
  const Instruction* by() const { return by_; }
  void load(const Instruction& i, int lane) {
    for (int k = 0; k < i.num_results; ++k) {
      if (i.results[k] >= 0) lanes_[i.results[k]] |= Lanes{1} << lane;
    }
    by_ = &i;
  }
  // Carries the doubts of the sources over to the results, and returns the lanes that use a number in doubt. lanes:
  // those that run the instruction; group: those that look at its guard.
  Lanes follow(const Instruction& i, Lanes lanes, Lanes group);

 private:
  std::vector<Lanes> lanes_;  // by register
  const Instruction* by_ = nullptr;
};
inline const char* const kRaceBetweenWarps = "race between warps in global memory";

struct Warp {
  Warp(Block& of, int place) : block(&of), index(place) {
    registers.resize(static_cast<size_t>(of.kernel.num_registers + 1) * kLanes);
    lane_memory.resize(static_cast<size_t>(of.kernel.lane_bytes) * kLanes);
  }

  Block* block;
  int index;
  std::vector<uint64_t> registers;  // 32 numbers of each; the last register takes results that nobody wants
  std::vector<char> lane_memory;
  Lanes live = 0, waiting = 0, at_barrier = 0;
  std::array<int, kLanes> place{};     // the next instruction of each lane
  std::array<bool, kLanes> carries{};  // of the last sum or difference of each lane that keeps its own
  Doubts doubts;
  std::vector<PendingCopy> copies;
  std::array<uint64_t, kLanes> groups{};  // how many groups of copies each lane has closed

  const uint64_t* source(int i) const {
    return i >= 0 ? &registers[static_cast<size_t>(i) * kLanes]
                  : &block->kernel.constants[static_cast<size_t>(~i) * kLanes];
  }
  uint64_t* result(int i) { return &registers[static_cast<size_t>(i >= 0 ? i : block->kernel.num_registers) * kLanes]; }
  char* memory_of(int lane) { return lane_memory.data() + static_cast<size_t>(lane) * block->kernel.lane_bytes; }
};

// Calls f(lane) for some lanes; for all of them in a loop that the compiler can make SIMD of.
template <class F>
void for_lanes(Lanes lanes, F&& f) {
  if (lanes == kAllLanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) f(lane);
  } else {
    for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
  }
}

// The lanes among `of` where a predicate is true.
inline Lanes where_true(const uint64_t* predicate, Lanes of) {
  Lanes lanes = 0;
  for (int lane = 0; lane < kLanes; ++lane) lanes |= static_cast<Lanes>(predicate[lane] & 1) << lane;
  return lanes & of;
}

// What is wrong, and which thread does it by which instruction.
[[noreturn]] void fail(const Warp& warp, const Instruction& instruction, int lane, const std::string& what);

// In which order the blocks of a grid run.
enum class Order { kForward, kBackward, kShuffled };

struct Options {
  Order order = Order::kForward;
  bool races = true;     // whether to look for races
  bool count = false;    // whether to count what is executed
  bool contract = true;  // whether to fuse products and sums as ptxas does; at the time a kernel is first launched
  int architecture = 90;
};
inline Options options;

// Runs a grid. Arguments lie where the pointers say, as cudaLaunchKernel is given them.
void launch(Kernel& kernel, Dim grid, Dim block, void* const* arguments, size_t dynamic_shared);

}  // namespace ptx
