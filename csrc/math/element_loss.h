// An elementwise loss is one struct. It lists its inputs, and computes the loss of a variable and its slopes: the
// derivatives by inputs. The CPU, CUDA and the bindings have one function template each for all of these structs.
#pragma once

#include "common.h"

namespace bfn {

enum Kind {
  kData,     // a number for each variable
  kNetwork,  // a number for each variable from a network; under autocast it has a narrower type than the data
  kClasses,  // numbers for each class of a row: for losses of rows, whose kernels are not the elementwise ones
  kRow,      // a row scalar
  kSign,     // a class, 0 or 1, which reaches the loss as -1 or 1
  kNumber,   // a number for the whole call
  kInteger,  // an integer for the whole call
  kUnused,   // only for some variants: the loss does not depend on the input, and GPUs do not read it
};
enum : int { kSlope = 1, kOptional = 2 };  // the loss has a slope by the input; the input may be missing

struct Input {
  const char* name;
  Kind kind;
  int flags = 0;
  double missing = 0;  // the value of a missing input
  int from = 0;        // in variants below this number, the input has the kind `before` instead
  Kind before = kUnused;

  constexpr bool is_tensor() const { return kind < kNumber; }
  constexpr bool has_slope() const { return flags & kSlope; }
  constexpr Kind kind_in(int variant) const { return variant < from ? before : kind; }
};

// The numbers of a tensor, called `name` in errors, must lie in [low, high]. On the CPU, others are an error.
struct Limits {
  const char* name = "";
  int tensor = 0;
  double low = -HUGE_VAL, high = HUGE_VAL;
};

template <class T, int kCount>
struct LossTerm {
  T value, slopes[kCount];  // the slopes are in the order of the inputs
};

// Members that the struct of a loss inherits unless it has its own. The struct must have `kInputs`, the arguments of
// the operator in order, and a template Term<T, kVariant>. A Term is made from the numbers of a call. For each
// variable, it is called with a factor of the slopes and a number of each tensor. `variant` chooses the variant of a
// call.
struct AnyLoss {
  static constexpr int kVariants = 1;
  // How many blocks a GPU's multiprocessor must have registers for: in double, and where a thread reads four floats.
  static constexpr int kBlocksInDouble = 2, kBlocksOfFour = 2;
  static constexpr auto variant = [](const auto*, const double*) { return 0; };
  static Limits limits(int, const double*) { return {}; }
};

template <class Loss>
constexpr int kNumInputs = static_cast<int>(sizeof(Loss::kInputs) / sizeof(Input));

// How many of the inputs before number `end` are tensors, or have a slope.
template <class Loss>
constexpr int count_before(int end, bool (Input::*is)() const) {
  int found = 0;
  for (int i = 0; i < end; ++i) found += (Loss::kInputs[i].*is)();
  return found;
}
// The place of tensor number n among the inputs, or of the input with slope number n.
template <class Loss>
constexpr int place_of(int n, bool (Input::*is)() const) {
  int i = 0;
  while (count_before<Loss>(i + 1, is) <= n) ++i;
  return i;
}
template <class Loss>
constexpr int kTensors = count_before<Loss>(kNumInputs<Loss>, &Input::is_tensor);
template <class Loss>
constexpr int kSlopes = count_before<Loss>(kNumInputs<Loss>, &Input::has_slope);
template <class Loss, int n>
constexpr Input kTensor = Loss::kInputs[place_of<Loss>(n, &Input::is_tensor)];

}  // namespace bfn
