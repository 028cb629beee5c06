#include "host_shim.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#if !defined(__x86_64__)
#error "the shim switches fibers on x86-64 alone"
#endif

extern "C" void host_shim_switch(void** save, void* to);
asm(R"(.text
.globl host_shim_switch
.type host_shim_switch,@function
host_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace host_shim {
namespace {

constexpr size_t kStack = 256 << 10;  // of virtual memory, of which only touched pages take room
constexpr unsigned kMaxGroups = 32;

enum class State { kReady, kAtBarrier, kAtWarp, kDone };

// Lanes that meet by the same mask. Rounds use the two arrays of slots in turn, since a lane may arrive for the next
// round while other lanes still read.
struct Group {
  unsigned mask = 0, arrived = 0, round = 0;
  int line = 0;
  uint64_t slots[2][32];
};

struct Warp {
  Group groups[kMaxGroups];
  unsigned count = 0;
};

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  unsigned index = 0, round = 0;
  State state = State::kDone;
  Group* group = nullptr;
  int line = 0;
};

struct Machine {
  std::mutex mutex;
  const std::function<void()>* kernel = nullptr;
  unsigned block = 0, blocks = 0, threads = 0;
  int launches = 0;
  Fiber scheduler, *current = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  unsigned live = 0, at_barrier = 0, barrier_round = 0;
  int barrier_line = 0;
  bool votes[2] = {};  // for this round of the barrier, and for the previous one, which threads may still read
  bool progress = false;
};

Machine machine;

[[noreturn]] void die(const char* what, int line) {
  std::fprintf(stderr, "host_shim: %s, line %d, block %u", what, line, machine.block);
  if (machine.current) std::fprintf(stderr, ", thread %u", machine.current->index);
  std::fprintf(stderr, "\n");
  for (const Fiber& fiber : machine.fibers) {
    if (fiber.state == State::kAtBarrier || fiber.state == State::kAtWarp) {
      std::fprintf(stderr, "  thread %u waits in line %d\n", fiber.index, fiber.line);
      break;
    }
  }
  std::abort();
}

void pause() { host_shim_switch(&machine.current->stack_pointer, machine.scheduler.stack_pointer); }

// A fiber runs one thread of each block, block after block.
void fiber_main() {
  for (;;) {
    (*machine.kernel)();
    machine.current->state = State::kDone;
    --machine.live;
    machine.progress = true;
    pause();
  }
}

void create(Fiber& fiber, unsigned index) {
  fiber.index = index;
  fiber.stack = static_cast<char*>(
      mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (fiber.stack == MAP_FAILED) die("no memory for a stack", 0);
  // The tops of the stacks are staggered, since equal offsets would use the same cache sets. The return address and six
  // registers lie at the top.
  void** top = reinterpret_cast<void**>(fiber.stack + kStack - index % 61 * 128) - 2;
  top[0] = reinterpret_cast<void*>(fiber_main);
  top[1] = nullptr;
  fiber.stack_pointer = top - 6;
  std::memset(fiber.stack_pointer, 0, 6 * sizeof(void*));
}

void resize(unsigned threads) {
  if (machine.fibers.size() == threads) return;
  for (Fiber& fiber : machine.fibers) munmap(fiber.stack, kStack);
  machine.fibers.assign(threads, Fiber{});
  machine.warps.assign((threads + 31) / 32, Warp{});
  for (unsigned i = 0; i < threads; ++i) create(machine.fibers[i], i);
}

bool can_run(const Fiber& fiber) {
  switch (fiber.state) {
    case State::kReady:
      return true;
    case State::kAtBarrier:
      return fiber.round != machine.barrier_round;
    case State::kAtWarp:
      return fiber.round != fiber.group->round;
    case State::kDone:
      return false;
  }
  return false;
}

void run_block() {
  for (Warp& warp : machine.warps) warp.count = 0;
  for (Fiber& fiber : machine.fibers) fiber.state = State::kReady;
  machine.live = machine.threads;
  machine.at_barrier = 0;
  while (machine.live > 0) {
    machine.progress = false;
    for (Fiber& fiber : machine.fibers) {
      if (!can_run(fiber)) continue;
      fiber.state = State::kReady;
      machine.progress = true;
      machine.current = &fiber;
      host_shim_switch(&machine.scheduler.stack_pointer, fiber.stack_pointer);
    }
    machine.current = nullptr;
    if (!machine.progress) die("a barrier or warp operation is not reached by every thread that it names", 0);
  }
}

}  // namespace

Index thread_index() { return {machine.current->index}; }
Index block_index() { return {machine.block}; }
Index block_size() { return {machine.threads}; }
Index grid_size() { return {machine.blocks}; }
unsigned lane() { return machine.current->index % 32; }

void launch(const std::function<void()>& kernel, int64_t blocks, int threads) {
  if (blocks < 1 || blocks > INT32_MAX || threads < 1 || threads > 1024) die("impossible launch", 0);
  const std::lock_guard<std::mutex> lock(machine.mutex);
  ++machine.launches;
  machine.kernel = &kernel;
  machine.blocks = static_cast<unsigned>(blocks);
  machine.threads = static_cast<unsigned>(threads);
  resize(machine.threads);
  for (machine.block = 0; machine.block < machine.blocks; ++machine.block) run_block();
}

// Returns how many kernels were launched. Tests call it through ctypes.
extern "C" __attribute__((visibility("default"))) int host_shim_launches() { return machine.launches; }

bool sync_block(int line, bool vote) {
  Fiber& fiber = *machine.current;
  fiber.line = line;
  if (machine.at_barrier > 0 && machine.barrier_line != line)
    die("threads of a block wait at different barriers", line);
  if (machine.live < machine.threads) die("a barrier after threads of the block have ended", line);
  const unsigned round = machine.barrier_round;
  machine.barrier_line = line;
  machine.votes[round % 2] |= vote;
  if (++machine.at_barrier == machine.threads) {
    machine.at_barrier = 0;
    ++machine.barrier_round;
    machine.votes[machine.barrier_round % 2] = false;
    machine.progress = true;
  } else {
    fiber.round = round;
    fiber.state = State::kAtBarrier;
    pause();
  }
  return machine.votes[round % 2];
}

const uint64_t* exchange(unsigned mask, uint64_t value, int line) {
  Fiber& fiber = *machine.current;
  fiber.line = line;
  const unsigned lane = fiber.index % 32, first = fiber.index - lane;
  if (!(mask >> lane & 1)) die("a lane calls a warp operation whose mask leaves it out", line);
  Warp& warp = machine.warps[fiber.index / 32];
  Group* group = nullptr;
  for (unsigned i = 0; i < warp.count; ++i) {
    if (warp.groups[i].mask == mask) group = &warp.groups[i];
  }
  if (!group) {
    if (warp.count == kMaxGroups) die("more masks in a warp than the shim holds", line);
    group = &warp.groups[warp.count++];
    *group = Group{};
    group->mask = mask;
  }
  if (group->arrived && group->line != line) die("lanes of a mask meet at different warp operations", line);
  const unsigned round = group->round, lanes = machine.threads - first;
  const unsigned existing = lanes >= 32 ? ~0u : (1u << lanes) - 1;
  if (mask & ~existing) die("a mask names lanes that the block does not have", line);
  group->line = line;
  group->slots[round % 2][lane] = value;
  group->arrived |= 1u << lane;
  if (group->arrived == mask) {
    group->arrived = 0;
    ++group->round;
    machine.progress = true;
  } else {
    fiber.round = round;
    fiber.group = group;
    fiber.state = State::kAtWarp;
    pause();
  }
  return group->slots[round % 2];
}

void check_source(unsigned mask, unsigned source, int line) {
  if (source >= 32 || !(mask >> source & 1)) die("a shuffle reads a lane that the mask leaves out", line);
}

}  // namespace host_shim
