// The table of instructions: the name of each, as PTX writes it, and what it does.
#pragma once

#include <string>

#include "program.h"

namespace ptx {

// How the operands of an instruction are written.
enum class Form : uint8_t {
  kResultFirst,   // d, a, b, ...; a result may be a pair d|p
  kMove,          // d, a; either may be a vector {x, y}
  kLoad,          // d, [a]
  kStore,         // [a], b
  kCopy,          // [to], [from], bytes; then maybe how many bytes are read, where 0 makes it write zeros
  kSources,       // a, b, ...
  kGroupProduct,  // {d, ...}, a, b, ...; d are also sources, behind all others
  kBarrier,       // the number of a barrier, which is 0
  kLabel,
  kBranchTable,  // an index and the name of a table
  kCall,
  kNone,
};

struct Row {
  Form form = Form::kResultFirst;
  int sources = 0;   // how many sources, for kResultFirst and kSources
  Instruction base;  // without its operands; the table adds its name
};

// Returns the row of the instruction with this full name, or null. The row lives as long as the process.
const Row* find_row(const std::string& name);

// Returns the function that computes a·b + c with one rounding. The product a·b or the summand c may be negated.
Run fused(bool is_double, bool negate_product, bool negate_sum);

class Table;
void add_integers(Table& table);
void add_floats(Table& table);
void add_conversions(Table& table);
void add_movement(Table& table);  // memory, control flow, and collective operations of lanes
void add_matrices(Table& table);  // products on tensor cores, and asynchronous copies

}  // namespace ptx
