// An allocator for torch's memory on the CPU. It tells the interpreter of each allocation, and the interpreter lets
// kernels access no other memory.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "memory.h"

namespace {

void release(void* data) {
  ptx::global_memory().remove(data);
  std::free(data);
}

class KnownMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    constexpr size_t kAlignment = 64;  // as in torch
    if (bytes == 0) return {nullptr, c10::Device(c10::DeviceType::CPU)};
    void* data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    if (!data) throw std::bad_alloc();
    // NaN in every floating-point type, so that a read of memory that was never written changes the results.
    std::memset(data, 0xff, bytes);
    ptx::global_memory().add(data, bytes);
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void ptx_watch_torch() {
  static KnownMemory memory;
  c10::SetCPUAllocator(&memory, 1);
}
