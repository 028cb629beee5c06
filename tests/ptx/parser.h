// Parses the text of a kernel and of the functions that it calls into instructions.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "instructions.h"
#include "memory.h"
#include "program.h"

namespace ptx {

// Reads tokens one by one.
class Reader {
 public:
  Reader(const std::vector<Token>& tokens, size_t at) : tokens_(&tokens), at_(at) {}

  size_t at() const { return at_; }
  int line() const { return (*tokens_)[at_].line; }
  std::string_view peek(size_t k = 0) const { return (*tokens_)[std::min(at_ + k, tokens_->size() - 1)].text; }
  std::string_view next() { return at_ < tokens_->size() ? (*tokens_)[at_++].text : std::string_view(); }
  bool accept(std::string_view text) {
    if (peek() != text) return false;
    ++at_;
    return true;
  }
  void expect(std::string_view text) {
    if (!accept(text)) bad("expected '" + std::string(text) + "'");
  }
  [[noreturn]] void bad(const std::string& what) const;
  void skip_braces();
  // Returns the bits of a number.
  uint64_t number();
  Declared declaration();

 private:
  const std::vector<Token>* tokens_;
  size_t at_;
};

// What a name stands for.
struct Symbol {
  enum Kind { kRegister, kLaneMemory, kAddress, kRegisters } kind;  // kRegisters: all registers whose names begin so
  int64_t value;  // the index of the register, or the address; for kRegisters, how many there are
};

struct Operand {
  enum Kind { kRegister, kNumber, kSymbol, kName, kVector, kAddress } kind = kName;
  std::string name;
  int reg = -1, second = -1;  // `second` is p of a pair d|p
  uint64_t bits = 0;
  Symbol symbol{};
  int64_t offset = 0;  // is added to an address or a symbol
  bool negated = false;
  std::vector<Operand> parts;  // the elements of a vector, or the base of an address
};

class Parser {
 public:
  Parser(Module& module, const std::string& kernel);
  std::unique_ptr<Kernel> parse();

 private:
  // A function that the kernel calls. Its results and parameters lie in lane memory.
  struct Callee {
    int first = -1, return_register = -1;
    std::vector<Parameter> results, parameters;
  };

  Module& module_;
  Reader reader_;
  std::unique_ptr<Kernel> kernel_ = std::make_unique<Kernel>();
  std::vector<std::map<std::string, Symbol, std::less<>>> scopes_;
  std::map<std::string, Callee> callees_;
  std::vector<std::string> to_parse_;
  std::vector<std::string> called_;  // the callee of each call
  std::map<uint64_t, int> constants_;
  int dynamic_shared_ = -1;   // where dynamic shared memory begins; -1 if there is none
  int return_register_ = -1;  // of the function that is parsed now; -1 in the kernel itself
  // The labels of the function that is parsed now.
  std::map<std::string, int, std::less<>> labels_;
  std::vector<std::pair<int, std::string>> branches_;  // the place of each branch, and its label
  std::map<std::string, std::vector<std::string>, std::less<>> tables_;
  std::vector<std::pair<int, std::string>> table_branches_;

  void body(size_t at);
  void statement();
  void registers();
  void label();
  void resolve_labels(int first);
  Callee& callee(const std::string& name);

  int new_register() { return kernel_->num_registers++; }
  int new_lane_memory(int bytes);
  int64_t new_shared_memory(const Declared& d);
  int constant(uint64_t bits);
  const Symbol* find(std::string_view name);

  Operand operand();
  Operand address();
  Operand named();
  int source(const Operand& o);

  void instruction();
  void operands(const Row& row, Instruction& i);
  void add_results(Instruction& i, const Operand& o);
  void add_sources(Instruction& i, const Operand& o);
  void add_source(Instruction& i, const Operand& o);
  void set_address(Instruction& i, const Operand& o);
  void call(Instruction& i);
};

}  // namespace ptx
