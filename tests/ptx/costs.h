// Counts what kernels execute while options.count is set.
#pragma once

#include <cstdint>
#include <string>

#include "program.h"

namespace ptx {

// Counts an access to memory. Each lane accesses `bytes` bytes at its address plus the instruction's offset.
void count_access(const Warp& warp, const Instruction& i, Lanes lanes, const uint64_t* addresses, int bytes);

// Keeps what a warp issued in a block if no other warp issued more.
void keep_worst(Kernel& kernel, const Warp& warp);

// Adds the counts of a launch to the kernel's total counts.
void collect(Kernel& kernel);

// Returns the total counts since the last call: a line for each kernel and name of an instruction, with the numbers of
// Executed.
std::string collected();

}  // namespace ptx
