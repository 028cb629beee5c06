#include "../ops/loss.h"

namespace bfn {

int64_t loss_workspace(const LossTarget&) { return 0; }  // the partial sums are a vector of reduce_losses

}  // namespace bfn
