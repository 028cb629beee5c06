// The numbers of rows that an operator takes: as they are, or made from a time or accuracies on the way.
#pragma once

#include "../math/schedules.h"
#include "tensors.h"

// `which` has the bits of bfn_kernels/rows.py. `rows` has the numbers, in their order, which broadcast to the data; or,
// where `by` says a schedule's kind, its parameter, K, n and a scale, a time or alpha, and the precision that alpha is
// added to, which have the shape of a leading part of the data's.
#define BFN_ROWS "Tensor[] rows, int which, float[] by"

namespace bfn {

// Those made, one after the other along a dimension before those of the rows.
Tensor row_numbers_of(const Tensors& rows, int64_t which, const Doubles& by, const Shape& shape, ScalarType type);

class Numbers {
 public:
  Numbers(const Tensors& rows, int64_t which, const Doubles& by, const Shape& shape, ScalarType type)
      : shape_(shape), which_(which), given_(rows) {
    if (!by.empty()) made_ = row_numbers_of(rows, which, by, shape, type);
    check(type);
  }

  // That of those wanted which there is; a view that is null where there is none.
  View of(std::initializer_list<RowNumber> wanted) const;

 private:
  void check(ScalarType type) const;

  // the caller's, who keeps them
  const Shape& shape_;
  int64_t which_;
  const Tensors& given_;
  MaybeTensor made_;
};

}  // namespace bfn
