#include <stdexcept>
#include "../ops/discretised.h"
namespace bfn {
#define S(f, Op)                      \
  template <class T>                  \
  void f(const Op&) {                 \
    throw std::runtime_error("todo"); \
  }                                   \
  template void f<float>(const Op&);  \
  template void f<double>(const Op&);
S(expected_value, ExpectedValue)
S(choose, Choose) S(discretised_update, DiscretisedUpdate) S(discretised_loss, DiscretisedLoss)
}  // namespace bfn
