// The functions that tests call by ctypes, and to which the replacement of the CUDA runtime links.
#include "interface.h"

#include <set>

#include "arithmetic.h"
#include "machine.h"
#include "program.h"

namespace {

std::mutex mutex;  // one kernel runs at a time
thread_local std::string answer;
std::set<std::string> executed;

// Calls f with the lock. If f throws, stores the message for ptx_error and returns an empty result.
template <class F>
auto guarded(F&& f) -> decltype(f()) {
  const std::lock_guard<std::mutex> lock(mutex);
  try {
    return f();
  } catch (const std::exception& error) {
    answer = error.what();
    return {};
  }
}

ptx::Module& module_of(void* handle) { return *static_cast<ptx::Module*>(handle); }

}  // namespace

extern "C" {

const char* ptx_error() { return answer.c_str(); }

void* ptx_load(const char* text) {
  return guarded([&]() -> void* { return new ptx::Module(text); });
}

int ptx_parameters(void* module, const char* kernel) {
  const auto count = guarded([&] { return 1 + static_cast<int>(module_of(module).kernel(kernel).parameters.size()); });
  return count - 1;
}

const char* ptx_executed() {
  answer.clear();
  for (const std::string& name : executed) answer += name + "\n";
  executed.clear();
  return answer.c_str();
}

int ptx_launch(void* module, const char* kernel, const unsigned* grid, const unsigned* block, void* const* arguments,
               unsigned long dynamic_shared) {
  return guarded([&] {
    ptx::launch(module_of(module).kernel(kernel), {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                arguments, dynamic_shared);
    executed.insert(kernel);
    return true;
  });
}

void ptx_allow(const void* begin, unsigned long bytes) { ptx::global_memory().add(begin, bytes); }
void ptx_forget(const void* begin) { ptx::global_memory().remove(begin); }

const char* ptx_counts() {
  answer = ptx::collected();
  return answer.c_str();
}

void ptx_set(int order, int races, int count, int contract, int shift, int architecture) {
  ptx::options = {.order = static_cast<ptx::Order>(order),
                  .races = races != 0,
                  .count = count != 0,
                  .contract = contract != 0,
                  .architecture = architecture};
  ptx::approximation_shift = shift;
}
}
