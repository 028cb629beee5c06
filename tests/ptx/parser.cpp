#include "parser.h"

namespace ptx {
namespace {

int round_up(int x, int to) { return (x + to - 1) / to * to; }

bool starts_number(std::string_view t) { return !t.empty() && t[0] >= '0' && t[0] <= '9'; }

}  // namespace

Parser::Parser(Module& module, const std::string& kernel)
    : module_(module), reader_(module.tokens_, module.functions_.at(kernel).body) {
  kernel_->name = kernel;
  auto& parameters = scopes_.emplace_back();
  int end = 0;
  const auto& declared = module.functions_.at(kernel).parameters;
  for (const Declared& d : declared) {
    kernel_->parameters.push_back({round_up(end, d.align), d.bytes});
    end = round_up(end, d.align) + d.bytes;
  }
  kernel_->parameter_memory.resize(round_up(end + 16, 16));
  for (size_t k = 0; k < declared.size(); ++k) {
    char* at = kernel_->parameter_memory.data() + kernel_->parameters[k].offset;
    parameters[declared[k].name] = {Symbol::kAddress, reinterpret_cast<int64_t>(at)};
  }
}

std::unique_ptr<Kernel> Parser::parse() {
  body(reader_.at());
  while (!to_parse_.empty()) {
    const std::string name = to_parse_.back();
    to_parse_.pop_back();
    const auto& function = module_.functions_.at(name);
    Callee& c = callees_.at(name);
    c.first = static_cast<int>(kernel_->code.size());
    return_register_ = c.return_register;
    scopes_.assign(1, {});
    for (size_t k = 0; k < function.parameters.size(); ++k) {
      scopes_[0][function.parameters[k].name] = {Symbol::kLaneMemory, c.parameters[k].offset};
    }
    for (size_t k = 0; k < function.results.size(); ++k) {
      scopes_[0][function.results[k].name] = {Symbol::kLaneMemory, c.results[k].offset};
    }
    body(function.body);
  }
  for (size_t k = 0; k < called_.size(); ++k) kernel_->calls[k].first = callees_.at(called_[k]).first;
  if (dynamic_shared_ >= 0 && dynamic_shared_ != kernel_->shared_bytes) {
    fail(kernel_->name + ": shared memory of a fixed size behind that whose size the launch says");
  }
  return std::move(kernel_);
}

void Parser::body(size_t at) {
  reader_ = Reader(module_.tokens_, at);
  const int first = static_cast<int>(kernel_->code.size());
  labels_.clear(), branches_.clear(), tables_.clear(), table_branches_.clear();
  reader_.expect("{");
  scopes_.emplace_back();
  for (int depth = 1; depth > 0;) {
    if (reader_.accept("{")) {
      ++depth;
      scopes_.emplace_back();
    } else if (reader_.accept("}")) {
      --depth;
      scopes_.pop_back();
    } else {
      statement();
    }
  }
  Instruction end = find_row("ret")->base;
  end.target = return_register_;
  kernel_->code.push_back(end);
  resolve_labels(first);
}

void Parser::statement() {
  const std::string_view t = reader_.peek();
  if (reader_.peek(1) == ":") return label();
  if (t == ".reg") return registers();
  if (t == ".pragma") {
    while (reader_.next() != ";") continue;
    return;
  }
  if (t == ".local" || t == ".param" || t == ".shared") {
    reader_.next();
    const Declared d = reader_.declaration();
    scopes_.back()[d.name] = t == ".shared" ? Symbol{Symbol::kAddress, new_shared_memory(d)}
                                            : Symbol{Symbol::kLaneMemory, new_lane_memory(d.bytes)};
    return reader_.expect(";");
  }
  if (!reader_.accept(";")) instruction();
}

// .reg .f32 %f<9>, %x;
void Parser::registers() {
  reader_.expect(".reg");
  while (reader_.peek()[0] == '.') reader_.next();
  do {
    const std::string name(reader_.next());
    if (reader_.accept("<")) {
      scopes_.back()[name] = {Symbol::kRegisters, static_cast<int64_t>(reader_.number())};
      reader_.expect(">");
    } else {
      scopes_.back()[name] = {Symbol::kRegister, new_register()};
    }
  } while (reader_.accept(","));
  reader_.expect(";");
}

void Parser::label() {
  const std::string name(reader_.next());
  reader_.expect(":");
  if (reader_.accept(".branchtargets")) {
    while (!reader_.accept(";")) {
      if (!reader_.accept(",")) tables_[name].emplace_back(reader_.next());
    }
  } else {
    labels_[name] = static_cast<int>(kernel_->code.size());
  }
}

void Parser::resolve_labels(int first) {
  const auto place = [&](const std::string& name) {
    const auto found = labels_.find(name);
    if (found == labels_.end()) fail(kernel_->name + ": no label " + name);
    return found->second;
  };
  for (const auto& [code, name] : branches_) kernel_->code[code].target = place(name);
  for (const auto& [code, name] : table_branches_) {
    kernel_->code[code].target = static_cast<int>(kernel_->branch_tables.size());
    auto& table = kernel_->branch_tables.emplace_back();
    for (const std::string& entry : tables_.at(name)) table.push_back(place(entry));
  }
  std::vector<int> labels;
  for (const auto& [name, at] : labels_) labels.push_back(at);
  contract(*kernel_, first, labels);
}

Parser::Callee& Parser::callee(const std::string& name) {
  const auto [found, fresh] = callees_.try_emplace(name);
  Callee& c = found->second;
  if (!fresh) return c;
  const auto function = module_.functions_.find(name);
  if (function == module_.functions_.end()) reader_.bad("no function " + name);
  const auto place = [&](const Declared& d) { return Parameter{new_lane_memory(d.bytes), d.bytes}; };
  for (const Declared& d : function->second.results) c.results.push_back(place(d));
  for (const Declared& d : function->second.parameters) c.parameters.push_back(place(d));
  c.return_register = new_register();
  kernel_->return_registers.push_back(c.return_register);
  to_parse_.push_back(name);
  return c;
}

int Parser::new_lane_memory(int bytes) {
  const int at = kernel_->lane_bytes;
  kernel_->lane_bytes = round_up(at + bytes, 16);
  return at;
}

int64_t Parser::new_shared_memory(const Declared& d) {
  const int at = round_up(kernel_->shared_bytes, std::max(d.align, 16));
  kernel_->shared_bytes = at + d.bytes;
  if (d.bytes == 0) dynamic_shared_ = at;
  return at;
}

int Parser::constant(uint64_t bits) {
  const auto [found, fresh] = constants_.emplace(bits, static_cast<int>(constants_.size()));
  if (fresh) kernel_->constants.insert(kernel_->constants.end(), kLanes, bits);
  return ~found->second;
}

// Returns what a name stands for, or null. A register of a declared range and a shared variable get their places when
// they are first used.
const Symbol* Parser::find(std::string_view name) {
  const std::string_view stem = name.substr(0, name.find_last_not_of("0123456789") + 1);
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    const auto found = scope->find(name);
    if (found != scope->end()) return &found->second;
    const auto range = scope->find(stem);
    if (range == scope->end() || range->second.kind != Symbol::kRegisters || stem == name) continue;
    if (std::stoll(std::string(name.substr(stem.size()))) >= range->second.value) reader_.bad("no such register");
    return &((*scope)[std::string(name)] = {Symbol::kRegister, new_register()});
  }
  const auto variable = module_.variables_.find(name);
  if (variable == module_.variables_.end()) return nullptr;
  char* address = variable->second.address;
  const int64_t at = address ? reinterpret_cast<int64_t>(address) : new_shared_memory(variable->second.declared);
  return &(scopes_.front()[std::string(name)] = {Symbol::kAddress, at});
}

Operand Parser::operand() {
  const std::string_view t = reader_.peek();
  if (t == "{" || t == "(") {
    Operand o{.kind = Operand::kVector};
    reader_.next();
    while (!reader_.accept("}") && !reader_.accept(")")) {
      o.parts.push_back(operand());
      reader_.accept(",");
    }
    return o;
  }
  if (t == "[") return address();
  if (reader_.accept("!")) {
    Operand o = operand();
    o.negated = true;
    return o;
  }
  if (t == "-" || starts_number(t)) return {.kind = Operand::kNumber, .bits = reader_.number()};
  return named();
}

Operand Parser::address() {
  reader_.expect("[");
  Operand o{.kind = Operand::kAddress};
  o.parts.push_back(operand());
  while (!reader_.accept("]")) {
    if (!reader_.accept("+") && reader_.peek() != "-") reader_.bad("no address");
    o.offset += static_cast<int64_t>(reader_.number());
  }
  return o;
}

Operand Parser::named() {
  Operand o{.name = std::string(reader_.next())};
  if (o.name == "_") {
    o.kind = Operand::kRegister;
    return o;
  }
  if (o.name == "WARP_SZ") return {.kind = Operand::kNumber, .bits = kLanes};
  const Symbol* symbol = find(o.name);
  if (!symbol && o.name[0] == '%') {
    kernel_->specials.emplace_back(new_register(), o.name);
    // The outermost scope of this function, since other functions have registers of their own.
    symbol = &(scopes_.front()[o.name] = {Symbol::kRegister, kernel_->specials.back().first});
  }
  if (!symbol) return o;
  o.symbol = *symbol;
  o.kind = symbol->kind == Symbol::kRegister ? Operand::kRegister : Operand::kSymbol;
  if (o.kind == Operand::kRegister) {
    o.reg = static_cast<int>(symbol->value);
    if (reader_.accept("|")) o.second = operand().reg;
  } else {
    while (reader_.accept("+")) o.offset += static_cast<int64_t>(reader_.number());
  }
  return o;
}

int Parser::source(const Operand& o) {
  switch (o.kind) {
    case Operand::kRegister:
      return o.reg;
    case Operand::kNumber:
      return constant(o.bits);
    case Operand::kSymbol:
      return constant(o.symbol.value + o.offset);
    default:
      reader_.bad("no source: " + o.name);
  }
}

}  // namespace ptx
