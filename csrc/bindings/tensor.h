// A tensor as it comes into the library, by torch's dispatcher (dispatcher.h) or from Python itself (direct.h).
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <memory>
#include <optional>
#include <vector>

namespace bfn {

using torch::headeronly::ScalarType;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

inline int64_t numel(Sizes sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return count;
}

class Tensor {
 public:
  // Makes one for the same way out, on the same device.
  using Make = Tensor (*)(const Tensor& like, Sizes sizes, Sizes strides, ScalarType type);

  // `source` is the dispatcher's handle, null for one from Python; `keeper` keeps those that were made here.
  Tensor(void* data, Sizes sizes, Sizes strides, ScalarType type, bool is_here, Make make, void* source,
         std::shared_ptr<void> keeper = nullptr)
      : data_(data),
        sizes_(sizes),
        strides_(strides),
        type_(type),
        is_here_(is_here),
        make_(make),
        source_(source),
        keeper_(std::move(keeper)) {}

  void* data() const { return data_; }
  Sizes sizes() const { return sizes_; }
  Sizes strides() const { return strides_; }
  int64_t numel() const { return bfn::numel(sizes_); }
  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t size(int64_t d) const { return sizes_[d]; }
  int64_t stride(int64_t d) const { return strides_[d]; }
  ScalarType scalar_type() const { return type_; }
  bool is_here() const { return is_here_; }  // on the device of this build
  Tensor make(Sizes sizes, Sizes strides, ScalarType type) const { return make_(*this, sizes, strides, type); }
  void* source() const { return source_; }
  void* keeper() const { return keeper_.get(); }
  void keep(std::shared_ptr<void> keeper) { keeper_ = std::move(keeper); }
  // Where it was not asked for; the dispatcher alone must have a tensor then too.
  Tensor make_none(ScalarType type) const {
    constexpr int64_t kSize = 0, kStride = 1;
    if (source_) return make({&kSize, 1}, {&kStride, 1}, type);
    return {nullptr, {}, {}, type, is_here_, make_, nullptr};
  }

 private:
  void* data_;
  Sizes sizes_, strides_;
  ScalarType type_;
  bool is_here_;
  Make make_;
  void* source_;
  std::shared_ptr<void> keeper_;
};

using MaybeTensor = std::optional<Tensor>;
struct Out {  // one that the operator writes into
  Tensor tensor;
};
using Tensors = std::vector<Tensor>;
using Shape = std::vector<int64_t>;
using Doubles = std::vector<double>;

}  // namespace bfn
