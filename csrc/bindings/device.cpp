// Gives the kernels torch's current CUDA stream and torch's threads.
#ifdef BFN_CUDA
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

namespace bfn {
void* current_stream() {
  void* stream = nullptr;
  const auto device = torch::stable::accelerator::getCurrentDeviceIndex();
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
}
}  // namespace bfn
#else
#include <torch/csrc/stable/ops.h>

#include "../cpu/parallel.h"

void bfn::run_parallel(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count <= grain) {
    if (count > 0) body(context, 0, count);
    return;
  }
  torch::stable::parallel_for(0, count, grain, [=](int64_t begin, int64_t end) { body(context, begin, end); });
}
#endif
