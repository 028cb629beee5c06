// The table of instructions: their names, as PTX writes them, and what each does.
#pragma once

#include <string>

#include "program.h"

namespace ptx {

// How the operands of an instruction are written.
enum class Form : uint8_t {
  kResultFirst,  // d, a, b, ...; a result may be a pair d|p
  kMove,         // d, a; either may be a vector {x, y}
  kLoad,         // d, [a]
  kStore,        // [a], b
  kCopy,         // [to], [from], bytes; or also the bytes that are read, where 0 makes it write zeros
  kSources,      // a, b, ...
  kBarrier,      // a number of a barrier, which is 0
  kLabel,
  kBranchTable,  // an index and the name of a table
  kCall,
  kNone,
};

struct Row {
  Form form = Form::kResultFirst;
  int sources = 0;   // of kResultFirst and kSources
  Instruction base;  // without its operands
};

// The row of an instruction of this full name, or null; and the name, for as long as the process lives.
const Row* find_row(const std::string& name, const std::string** kept);

// Runs a·b + c in one rounding, where the product or the sum may be negated.
Run fused(bool is_double, bool negate_product, bool negate_sum);

class Table;
void add_integers(Table& table);
void add_floats(Table& table);
void add_conversions(Table& table);
void add_movement(Table& table);  // memory, control, and what lanes do together
void add_matrices(Table& table);  // products on tensor cores, and copies that go on beside them

}  // namespace ptx
