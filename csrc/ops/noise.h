// Where the noise of an op comes from: an explicit tensor, or a seed and a stream.
#pragma once

#include "../math/philox.h"
#include "view.h"

namespace bfn {

template <class T>
struct Ahead;  // csrc/cpu/view.h

struct Noise {
  View explicit_values;
  const int64_t* seed = nullptr;  // where the data is: a captured graph replays with whatever stands there then
  uint32_t stream = kSender;

  // Runs of it, for the loops of the CPU: csrc/cpu/noise.h.
  static constexpr int64_t room(int64_t length);
  template <class T>
  const T* normals(int64_t start, int64_t length, T* buffer, uint32_t draw = 0, int64_t draw_stride = 0,
                   const Ahead<T>& ahead = Ahead<T>()) const;
  template <class T>
  T uniform(int64_t row) const;
};

}  // namespace bfn
