// The interpreter as a library. A function that fails returns null, -1 or 0, and ptx_error then says why.
#pragma once

extern "C" {
#pragma GCC visibility push(default)
const char* ptx_error();
// Makes a module of PTX text.
void* ptx_load(const char* text);
// Returns how many parameters a kernel has.
int ptx_parameters(void* module, const char* kernel);
// Returns the names of the kernels that ran to their end since the last call, one in each line.
const char* ptx_executed();
// Runs a grid. Returns 1 if it ran to its end.
int ptx_launch(void* module, const char* kernel, const unsigned* grid, const unsigned* block, void* const* arguments,
               unsigned long dynamic_shared);
// Allows kernels to access some memory, or no longer.
void ptx_allow(const void* begin, unsigned long bytes);
void ptx_forget(const void* begin);
// Returns the counts since the last call (ptx::collected).
const char* ptx_counts();
// Sets ptx::options and, by `shift`, ptx::approximation_shift. `order` is a ptx::Order.
void ptx_set(int order, int races, int count, int contract, int shift, int architecture);
#pragma GCC visibility pop
}
