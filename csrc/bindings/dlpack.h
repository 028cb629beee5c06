// What is used of DLPack's C interface, version 1 (https://dmlc.github.io/dlpack), whose layout is fixed. torch's own
// header of it is closed to those who keep to the stable ABI.
#pragma once

#include <cstdint>

namespace bfn::dlpack {

constexpr uint32_t kMajor = 1, kMinor = 3;
constexpr int32_t kCpu = 1;

enum Code : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct Version {
  uint32_t major, minor;
};

// One that somebody owns, until `deleter` is called.
struct Managed {
  Version version;
  void* owner;
  void (*deleter)(Managed*);
  uint64_t flags;
  Tensor tensor;
};

// What a framework offers for its tensors, in the capsule `__dlpack_c_exchange_api__` of their type. Functions return
// 0, or set Python's error.
struct Exchange {
  Version version;
  const void* previous;
  void (*allocate)();
  int (*managed_from_python)(void* object, Managed** out);
  int (*managed_to_python)(Managed* tensor, void** object);  // which owns it then
  int (*tensor_from_python)(void* object, Tensor* out);      // which is the object's
  void (*stream)();
};

}  // namespace bfn::dlpack
