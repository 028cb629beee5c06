#include <stdexcept>
#include "../ops/discrete.h"
namespace bfn {
#define S(f, Op)                      \
  template <class T>                  \
  void f(const Op&) {                 \
    throw std::runtime_error("todo"); \
  }                                   \
  template void f<float>(const Op&);  \
  template void f<double>(const Op&);
S(discrete_sender, DiscreteSender)
S(discrete_update, DiscreteUpdate) S(discrete_loss, DiscreteLoss) S(discrete_loss_backward, DiscreteLossBackward)
    S(discrete_nstep, DiscreteNStep)
}  // namespace bfn
