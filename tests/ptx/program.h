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
// kTogether: the lanes that a mask names wait for each other, and then it runs for all of them at once.
enum class Kind : uint8_t { kPlain, kBranch, kBranchTable, kCall, kReturn, kExit, kTrap, kBarrier, kTogether };
// How a predicate operand is combined with the outcome of a comparison.
enum class Combine : uint8_t { kNone, kAnd, kOr, kXor };

struct Instruction {
  Run run = nullptr;
  Kind kind = Kind::kPlain;
  Space space = Space::kGeneric;
  Combine combine = Combine::kNone;
  uint8_t bytes = 0, count = 1;  // of an access to memory: the bytes of an element, and the elements
  bool fills_with_sign = false;  // of a load: whether the element is signed
  bool of_lane = false;          // whether the address lies in the memory that each lane has of its own
  bool of_whole_warp = false;    // of kTogether: whether it has no mask
  bool negated = false;          // whether the last source is negated
  bool only_unless = false;      // whether the guard is negated
  uint8_t num_results = 0, num_sources = 0;
  int rounding = FE_TONEAREST;
  int guard = -1;                 // the predicate that lets a lane take part; -1 if all do
  std::array<int, 8> results{};   // registers; result -1 is dropped
  std::array<int, 10> sources{};  // registers; constant number n is source ~n
  int64_t offset = 0;             // is added to the address
  int64_t offset_to = 0;          // of a copy: is added to the address that it writes to
  int target = -1;                // the place in the code, or the number of a call or of a table of branches
  int line = 0;                   // of the PTX
  const std::string* name = nullptr;
};

// Bytes to be copied within the memory of a lane.
struct Copy {
  int from, to, bytes;
};

struct Call {
  int first = -1;       // the callee's first instruction
  int return_register;  // holds where to go on
  std::vector<Copy> arguments, results;
};

struct Parameter {
  int offset, bytes;
};

// What was executed of one instruction, or of all of one name. A warp issues an instruction once for the lanes that are
// at it together. Sectors are the 32-byte pieces of global memory that its accesses reach, and passes the rounds in
// which shared memory serves them; the `least` of both would do if the same bytes lay side by side.
struct Executed {
  uint64_t issues = 0, lanes = 0, sectors = 0, least_sectors = 0, passes = 0, least_passes = 0;

  void add(const Executed& other);
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<Executed> executed;  // of each instruction in this launch, if it is counted
  std::vector<Call> calls;
  std::vector<std::vector<int>> branch_tables;
  std::vector<uint64_t> constants;  // each of them 32 times
  std::vector<Parameter> parameters;
  std::vector<char> parameter_memory;
  std::vector<std::pair<int, std::string>> specials;  // registers that hold thread numbers and the like
  std::vector<int> return_registers;
  int num_registers = 0, lane_bytes = 0, shared_bytes = 0;
};

// A name for something that the text declares: .shared, .global or a parameter.
struct Declared {
  std::string name;
  int bytes = 1, align = 1;
  int element_bytes = 1;  // of an array
};

struct Token {
  std::string_view text;
  int line;
};

// The text of a module. Kernels are parsed when they are first asked for.
class Module {
 public:
  explicit Module(std::string text);
  bool has(const std::string& kernel) const;
  Kernel& kernel(const std::string& name);
  std::vector<std::string> kernels() const;

 private:
  friend class Parser;
  struct Function {
    bool is_kernel;
    std::vector<Declared> results, parameters;
    size_t body;  // the token after its opening brace
  };
  struct Variable {
    Declared declared;
    char* address;  // null if it is shared: each kernel lays out what it uses
  };

  std::string text_;
  std::vector<Token> tokens_;
  std::map<std::string, Function, std::less<>> functions_;
  std::map<std::string, Variable, std::less<>> variables_;
  std::vector<std::unique_ptr<char[]>> statics_;
  std::map<std::string, std::unique_ptr<Kernel>> parsed_;
};

// Replaces sums of products that ptxas would compute in one rounding.
void contract(Kernel& kernel, int first, const std::vector<int>& labels);

[[noreturn]] inline void fail(const std::string& what) { throw std::runtime_error(what); }

}  // namespace ptx
