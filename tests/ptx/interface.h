// The interpreter as a library. Functions that may fail return null, -1 or 0, and ptx_error says why.
#pragma once

extern "C" {
#pragma GCC visibility push(default)
const char* ptx_error();
// A module, of PTX text.
void* ptx_load(const char* text);
// The number of a kernel's parameters.
int ptx_parameters(void* module, const char* kernel);
// The names of a module's kernels, and of those that ran to their ends since this was last asked, a line each.
const char* ptx_kernels(void* module);
const char* ptx_executed();
// Runs a grid; 1 if it did.
int ptx_launch(void* module, const char* kernel, const unsigned* grid, const unsigned* block, void* const* arguments,
               unsigned long dynamic_shared);
// Memory that kernels may reach.
void ptx_allow(const void* begin, unsigned long bytes);
void ptx_forget(const void* begin);
// What was executed since this was last asked, see ptx::collected.
const char* ptx_counts();
// order: of the blocks, see ptx::Order; shift: see approximation_shift.
void ptx_set(int order, int races, int count, int contract, int shift, int architecture);
#pragma GCC visibility pop
}
