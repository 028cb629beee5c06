// What kernels execute, counted while options.count is set.
#pragma once

#include <cstdint>
#include <string>

#include "program.h"

namespace ptx {

// Counts an access of `bytes` for each lane, at an address and the instruction's offset.
void count_access(const Warp& warp, const Instruction& i, Lanes lanes, const uint64_t* addresses, int bytes);

// Adds what a kernel executed in a launch to what is known of it.
void collect(Kernel& kernel);

// A line for each kernel and name of an instruction, with the numbers of Executed, since this was last asked.
std::string collected();

}  // namespace ptx
