// Elementwise losses: the loss of a variable depends on no other variable. math/element_loss.h explains their structs.
#pragma once

#include "../math/binary.h"
#include "../math/circular.h"
#include "../math/continuous.h"
#include "loss.h"

namespace bfn {

// Calls X(operator, struct) for each elementwise loss.
#define BFN_ELEMENT_LOSSES(X) BFN_BINARY_LOSSES(X) BFN_CIRCULAR_LOSSES(X) BFN_CONTINUOUS_LOSSES(X)

// A tensor is null if it is missing, and a gradient if it is not needed. No array may be empty, so `numbers` has one
// more than the call.
template <class Loss>
struct LossOf {
  View inputs[kTensors<Loss>];
  double numbers[kNumInputs<Loss> - kTensors<Loss> + 1];
  View gradients[kSlopes<Loss>];
  LossTarget to;
  int64_t num_classes = 1;  // for rows of classes
};

#define BFN_DECLARE_LOSS(name, Loss) \
  template <class T>                 \
  void name(const LossOf<Loss>& op);
BFN_ELEMENT_LOSSES(BFN_DECLARE_LOSS)

// Defines the function of an elementwise loss by a function template for all of them.
#define BFN_DEFINE_LOSS(name, Loss)   \
  template <class T>                  \
  void name(const LossOf<Loss>& op) { \
    element_loss<T>(op);              \
  }                                   \
  BFN_INSTANTIATE(name, const LossOf<Loss>&);

// Calls f with the variant of the call as an integral constant.
template <int kVariant = 0, class Loss, class F>
void with_variant(const LossOf<Loss>& op, F&& f) {
  if constexpr (kVariant + 1 < Loss::kVariants) {
    if (Loss::variant(op.inputs, op.numbers) > kVariant) return with_variant<kVariant + 1>(op, f);
  }
  f(std::integral_constant<int, kVariant>());
}

}  // namespace bfn
