// Torch's memory on the CPU, where each allocation lies between pages that nobody may touch, at one end of its own; and
// the stack below the caller, filled.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

namespace {

struct Pages {
  char* start;
  size_t bytes;
};

void release(void* context) {
  auto* pages = static_cast<Pages*>(context);
  munmap(pages->start, pages->bytes);
  delete pages;
}

class GuardedMemory final : public c10::Allocator {
 public:
  explicit GuardedMemory(bool at_end) : at_end_(at_end) {}

  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, cpu};
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), room = (bytes + page - 1) / page * page;
    const size_t all = room + 2 * page;
    void* start = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    char* own = static_cast<char*>(start) + page;
    mprotect(own, room, PROT_READ | PROT_WRITE);
    std::memset(own, 0xff, room);  // NaN in every type, for whoever reads what nobody wrote
    return {at_end_ ? own + room - bytes : own, new Pages{static_cast<char*>(start), all}, &release, cpu};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  const bool at_end_;
};

}  // namespace

// Guards new memory: 1 if it is to begin behind a guard, 2 if it is to end before one, 0 if it is to be torch's own.
extern "C" __attribute__((visibility("default"))) void guard_torch(int end) {
  static GuardedMemory behind(false), before(true);
  c10::SetCPUAllocator(end == 0 ? c10::GetDefaultCPUAllocator() : end == 1 ? &behind : &before, 1);
}

// Leaves this byte all over the stack that the caller's next calls use.
extern "C" __attribute__((visibility("default"), noinline)) void fill_stack(int byte) {
  char room[1 << 20];
  std::memset(room, byte, sizeof(room));
  asm volatile("" : : "r"(room) : "memory");  // somebody might read it
}
