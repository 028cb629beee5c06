#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

namespace bfn {

void* current_stream() {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(torch::stable::accelerator::getCurrentDeviceIndex(), &stream));
  return stream;
}

}  // namespace bfn
