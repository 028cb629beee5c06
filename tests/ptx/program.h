// A parsed kernel: instructions with their operands resolved to registers, constants and addresses.
#pragma once

#include <array>
#include <cfenv>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ptx {

struct Warp;
struct Instruction;

// A bit for each of the 32 lanes of a warp.
using Lanes = uint32_t;
constexpr int kLanes = 32;
constexpr Lanes kAllLanes = ~Lanes{0};

// Runs an instruction for some lanes of a warp.
using Run = void (*)(Warp&, const Instruction&, Lanes);

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam };
// A kCollective instruction waits for all lanes of its mask, and then runs for all of them at once.
enum class Kind : uint8_t { kPlain, kBranch, kBranchTable, kCall, kReturn, kExit, kTrap, kBarrier, kCollective };
// How a predicate operand is combined with the outcome of a comparison.
enum class Combine : uint8_t { kNone, kAnd, kOr, kXor };

struct Instruction {
  Run run = nullptr;
  Kind kind = Kind::kPlain;
  Space space = Space::kGeneric;
  Combine combine = Combine::kNone;
  uint8_t bytes = 0, count = 1;  // for an access to memory: the bytes of an element, and the number of elements
  bool sign_extends = false;     // for a load: whether the element is signed
  bool in_lane_memory = false;   // whether the address lies in the lane's own memory
  bool transposed = false;       // for a load or store of matrices
  bool of_whole_warp = false;    // for kCollective: whether it has no mask
  bool negated = false;          // whether the last source is negated
  bool guard_negated = false;    // whether the guard is negated
  uint8_t num_results = 0, num_sources = 0;
  int rounding = FE_TONEAREST;
  int guard = -1;                 // the predicate that lets a lane take part; -1 if all do
  std::array<int, 64> results{};  // registers; a result in register -1 is dropped
  std::array<int, 73> sources{};  // registers; source ~n is constant n
  int64_t offset = 0;             // is added to the address
  int64_t offset_to = 0;          // for a copy: is added to the address that it writes to
  int target = -1;                // a place in the code, or the index of a call or of a branch table
  int line = 0;                   // in the PTX
  const std::string* name = nullptr;
};

// Copies bytes within the memory of a lane.
struct Copy {
  int from, to, bytes;
};

struct Call {
  int first = -1;       // the callee's first instruction
  int return_register;  // holds the place after the call
  std::vector<Copy> arguments, results;
};

struct Parameter {
  int offset, bytes;
};

// The counts of one instruction, or of all instructions with one name. A warp issues an instruction once for all lanes
// that are at it. Sectors are the pieces of 32 bytes of global memory that the accesses reach. Passes are the rounds in
// which shared memory serves the accesses. `least_` counts are those of an access to as many contiguous bytes. `worst`
// are the issues by the warp that issues most instructions in all.
struct Executed {
  uint64_t issues = 0, lanes = 0, sectors = 0, least_sectors = 0, passes = 0, least_passes = 0, worst = 0;

  void add(const Executed& other);
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<Executed> executed;  // for each instruction in this launch, if options.count is set
  std::vector<Call> calls;
  std::vector<std::vector<int>> branch_tables;
  std::vector<uint64_t> constants;  // each constant is repeated 32 times
  std::vector<Parameter> parameters;
  std::vector<char> parameter_memory;
  std::vector<std::pair<int, std::string>> specials;  // registers that hold %tid.x and other special values
  std::vector<int> return_registers;
  int num_registers = 0, lane_bytes = 0, shared_bytes = 0;
};

// A declaration: of .shared or .global memory, or of a parameter.
struct Declared {
  std::string name;
  int bytes = 1, align = 1;
  int element_bytes = 1;  // the bytes of an element, for an array
};

struct Token {
  std::string_view text;
  int line;
};

// The text of a module. Kernels are parsed when they are first asked for.
class Module {
 public:
  explicit Module(std::string text);
  Kernel& kernel(const std::string& name);

 private:
  friend class Parser;
  struct Function {
    bool is_kernel;
    std::vector<Declared> results, parameters;
    size_t body;  // the index of its opening brace among the tokens
  };
  struct Variable {
    Declared declared;
    char* address;  // null for shared memory, which each kernel lays out itself
  };

  std::string text_;
  std::vector<Token> tokens_;
  std::map<std::string, Function, std::less<>> functions_;
  std::map<std::string, Variable, std::less<>> variables_;
  std::vector<std::unique_ptr<char[]>> statics_;
  std::map<std::string, std::unique_ptr<Kernel>> parsed_;
};

// Fuses the sums of products that ptxas computes with one rounding.
void contract(Kernel& kernel, int first, const std::vector<int>& labels);

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error(what); }

}  // namespace ptx
