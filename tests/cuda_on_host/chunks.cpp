// Checks that the workspace of a loss, which is made for blocks that work on single variables, has room for the partial
// sums of all other blocks. Prints the first case that has more, and returns 1. Then reads a row scalar that 2^32 rows
// share. The lower 32 bits of this number are 0, so a division in 32 bits would end the process.
#include <cstdio>

#include "../../csrc/cuda/elements.h"
#include "../../csrc/cuda/loss.h"

int main() {
  for (const auto reduction : {bfn::Reduction::kMean, bfn::Reduction::kBatch}) {
    for (const int64_t batch : {1, 171, 1024, 65536}) {
      for (const int64_t per_batch : {1, 1000, 32768, 196608, 33554432, 200000000}) {
        bfn::LossTarget to{};
        to.reduction = reduction;
        to.batch = batch;
        to.per_batch = per_batch;
        for (int64_t align = 1; align <= 4096; ++align) {
          if (bfn::chunks_of(to, align).blocks <= bfn::chunks_of(to, 1).blocks) continue;
          std::printf("[%lld, %lld] in multiples of %lld\n", static_cast<long long>(batch),
                      static_cast<long long>(per_batch), static_cast<long long>(align));
          return 1;
        }
      }
    }
  }
  float scalars[] = {1, 2};
  const bfn::View view{scalars, bfn::DType::kFloat, 2, {2, int64_t{1} << 32}, {1, 0}};
  return bfn::read_row<float>(view, 5) == 1 && bfn::read_row<float>(view, (int64_t{1} << 32) + 5) == 2 ? 0 : 1;
}
