// What is counted and never linked: L_inf where Euler-Maclaurin serves every variable.
#include "../csrc/cuda/discretised_loss.h"

namespace bfn {

template __global__ void loss_kernel<Dense<float, float>, true, true>(const __grid_constant__ DiscretisedLoss,
                                                                      const __grid_constant__ RowMap, const Chunks);

}  // namespace bfn
