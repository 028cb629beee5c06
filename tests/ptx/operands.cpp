// Parses one instruction: finds its row of the table, and reads its operands.
#include "parser.h"

namespace ptx {
namespace {

int rounding_of(const std::string& name) {
  const std::pair<const char*, int> modes[] = {
      {"rn", FE_TONEAREST}, {"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}};
  for (const auto& [mode, rounding] : modes) {
    if ((name + ".").find(std::string(".") + mode + ".") != std::string::npos) return rounding;
    if (name.find(std::string(".") + mode + "i.") != std::string::npos) return rounding;
  }
  return FE_TONEAREST;
}

// Returns the name without hints for the caches, which change no result.
std::string without_hints(std::string name) {
  for (const char* hint : {".L1::", ".L2::"}) {
    for (size_t at; (at = name.find(hint)) != std::string::npos;) name.erase(at, name.find('.', at + 1) - at);
  }
  return name;
}

}  // namespace

void Parser::instruction() {
  const int line = reader_.line();
  int guard = -1;
  bool guard_negated = false;
  if (reader_.accept("@")) {
    guard_negated = reader_.accept("!");
    guard = operand().reg;
  }
  const std::string full(reader_.next());
  const Row* row = find_row(without_hints(full));
  if (!row) fail("PTX line " + std::to_string(line) + ": unknown instruction " + full);
  Instruction i = row->base;
  i.line = line;
  i.guard = guard;
  i.guard_negated = guard_negated;
  i.rounding = rounding_of(full);
  operands(*row, i);
  reader_.expect(";");
  kernel_->code.push_back(i);
}

void Parser::operands(const Row& row, Instruction& i) {
  const int place = static_cast<int>(kernel_->code.size());
  switch (row.form) {
    case Form::kResultFirst:
      add_results(i, operand());
      [[fallthrough]];
    case Form::kSources:
      while (reader_.peek() != ";") {
        reader_.accept(",");
        add_sources(i, operand());
      }
      if (i.num_sources != row.sources) reader_.bad("another number of operands");
      return;
    case Form::kGroupProduct:
      add_results(i, operand());
      while (reader_.accept(",")) add_sources(i, operand());
      if (i.num_results != i.count) reader_.bad("another number of results");
      for (int k = 0; k < i.num_results; ++k) i.sources.at(i.num_sources++) = i.results[k];
      return;
    case Form::kMove:
      add_results(i, operand());
      reader_.expect(",");
      return add_sources(i, operand());
    case Form::kLoad: {
      add_results(i, operand());
      reader_.expect(",");
      if (i.num_results != i.count) reader_.bad("another number of results");
      set_address(i, operand());
      if (reader_.accept(",")) operand();  // a policy for the cache
      return;
    }
    case Form::kStore:
      set_address(i, operand());
      reader_.expect(",");
      add_sources(i, operand());
      if (i.num_sources != 1 + i.count) reader_.bad("another number of operands");
      if (reader_.accept(",")) operand();
      return;
    case Form::kCopy:
      set_address(i, operand());
      i.offset_to = i.offset;
      reader_.expect(",");
      set_address(i, operand());
      reader_.expect(",");
      i.bytes = static_cast<uint8_t>(reader_.number());
      if (i.bytes != 4 && i.bytes != 8 && i.bytes != 16) reader_.bad("a copy of other than 4, 8 or 16 bytes");
      if (reader_.accept(",")) add_source(i, operand());
      return;
    case Form::kBarrier:
      if (i.combine != Combine::kNone) {
        add_results(i, operand());
        reader_.expect(",");
      }
      if (reader_.number() != 0) reader_.bad("a barrier that is not number 0");
      if (reader_.accept(",")) add_source(i, operand());
      if (i.num_sources != i.num_results) reader_.bad("a barrier of some threads");
      return;
    case Form::kLabel:
      branches_.emplace_back(place, reader_.next());
      return;
    case Form::kBranchTable:
      add_source(i, operand());
      reader_.expect(",");
      table_branches_.emplace_back(place, reader_.next());
      return;
    case Form::kCall:
      return call(i);
    case Form::kNone:
      if (i.kind == Kind::kReturn) i.target = return_register_;
      return;
  }
}

void Parser::add_results(Instruction& i, const Operand& o) {
  const auto add = [&](const Operand& one) {
    if (one.kind != Operand::kRegister) reader_.bad("no register: " + one.name);
    i.results.at(i.num_results++) = one.reg;
  };
  if (o.kind != Operand::kVector) {
    add(o);
    if (o.second >= 0) i.results.at(i.num_results++) = o.second;
  }
  for (const Operand& part : o.parts) add(part);
}

void Parser::add_sources(Instruction& i, const Operand& o) {
  if (o.kind != Operand::kVector) return add_source(i, o);
  for (const Operand& part : o.parts) add_source(i, part);
}

void Parser::add_source(Instruction& i, const Operand& o) {
  i.negated |= o.negated;
  i.sources.at(i.num_sources++) = source(o);
}

void Parser::set_address(Instruction& i, const Operand& o) {
  if (o.kind != Operand::kAddress) reader_.bad("no address");
  const Operand& base = o.parts[0];
  i.offset = o.offset + base.offset;
  if (base.kind == Operand::kSymbol) {
    i.in_lane_memory = base.symbol.kind == Symbol::kLaneMemory;
    i.offset += base.symbol.value;
    i.sources.at(i.num_sources++) = constant(0);
  } else {
    i.sources.at(i.num_sources++) = source(base);
  }
}

// call (results), name, (arguments);
void Parser::call(Instruction& i) {
  Operand results, arguments;
  if (reader_.peek() == "(") {
    results = operand();
    reader_.expect(",");
  }
  const std::string& name = called_.emplace_back(reader_.next());
  if (reader_.accept(",")) arguments = operand();
  const Callee& c = callee(name);
  i.target = static_cast<int>(kernel_->calls.size());
  Call& call = kernel_->calls.emplace_back();
  call.return_register = c.return_register;
  const auto place = [](const Operand& o) { return static_cast<int>(o.symbol.value); };
  for (size_t k = 0; k < arguments.parts.size(); ++k) {
    call.arguments.push_back({place(arguments.parts[k]), c.parameters.at(k).offset, c.parameters.at(k).bytes});
  }
  for (size_t k = 0; k < results.parts.size(); ++k) {
    call.results.push_back({c.results.at(k).offset, place(results.parts[k]), c.results.at(k).bytes});
  }
}

}  // namespace ptx
