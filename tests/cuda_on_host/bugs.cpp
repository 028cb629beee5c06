// Kernels with one bug each, and some without a bug. `bugs NAME` runs one of them.
#include <cstdio>
#include <cstring>

#include "../../csrc/cuda/elements.h"
#include "../../csrc/cuda/team.h"

namespace {

constexpr int kSize = 64;

void sound_barrier(const float* x, float* out) {
  __shared__ float all[kSize];
  all[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = all[kSize - 1 - threadIdx.x];
}

void missing_barrier(const float* x, float* out) {
  __shared__ float all[kSize];
  all[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = all[kSize - 1 - threadIdx.x];
}

// It lacks __syncwarp(), since a shuffle does not order memory.
void missing_warp_barrier(const float* x, float* out) {
  __shared__ float all[kSize];
  all[threadIdx.x] = x[threadIdx.x];
  const float one = __shfl_xor_sync(~0u, 1.0f, 1);
  out[threadIdx.x] = one * all[threadIdx.x ^ 1];
}

void sound_warp_barrier(const float* x, float* out) {
  __shared__ float all[kSize];
  all[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = all[threadIdx.x ^ 1];
}

void read_out_of_bounds(const float* x, float* out) { out[threadIdx.x] = x[threadIdx.x + 1]; }
void write_out_of_bounds(const float* x, float* out) { out[threadIdx.x + 1] = x[threadIdx.x]; }

void shared_out_of_bounds(const float* x, float* out) {
  __shared__ float all[kSize];
  all[threadIdx.x + 1] = x[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = all[threadIdx.x];
}

struct alignas(16) Four {
  float each[4];
};

void misaligned_vector(const float* x, float* out) {
  out[threadIdx.x] = reinterpret_cast<const Four*>(x + 1)[threadIdx.x % 8].each[0];
}

void divergent_barrier(const float* x, float* out) {
  if (threadIdx.x < 40) __syncthreads();
  out[threadIdx.x] = x[threadIdx.x];
}

void barrier_after_exit(const float* x, float* out) {
  if (threadIdx.x >= 40) return;
  out[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
}

void lanes_missing_from_shuffle(const float* x, float* out) {
  float value = x[threadIdx.x];
  if (threadIdx.x < 16) value = __shfl_xor_sync(~0u, value, 1);
  out[threadIdx.x] = value;
}

void lane_outside_mask(const float* x, float* out) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(0xffffu, value, 16);
  out[threadIdx.x] = value;
}

void sound_mask(const float* x, float* out) {
  float value = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(0xffffu, value, 8);
  out[threadIdx.x] = value;
}

void sound_teams(const float* x, float* out) {
  const bfn::WarpTeam team(8);
  const bfn::BlockTeam block(0);
  out[threadIdx.x] = team.reduce(x[threadIdx.x], 0.0f, bfn::Add()) + block.sum_before(x[threadIdx.x]);
}

// Reads a row scalar that 2^32 rows share. The lower 32 bits of this number are 0, so a division in 32 bits would fail.
void sound_row_scalar(const float* x, float* out) {
  bfn::View view{const_cast<float*>(x), bfn::DType::kFloat, 2, {2, int64_t{1} << 32}, {1, 0}};
  out[threadIdx.x] = bfn::read_row<float>(view, threadIdx.x);
}

struct Kernel {
  const char* name;
  void (*run)(const float*, float*);
};

#define KERNEL(name) {#name, &name}
constexpr Kernel kKernels[] = {
    KERNEL(sound_barrier),      KERNEL(missing_barrier),      KERNEL(missing_warp_barrier),
    KERNEL(sound_warp_barrier), KERNEL(read_out_of_bounds),   KERNEL(write_out_of_bounds),
    KERNEL(misaligned_vector),  KERNEL(shared_out_of_bounds), KERNEL(divergent_barrier),
    KERNEL(barrier_after_exit), KERNEL(lane_outside_mask),    KERNEL(lanes_missing_from_shuffle),
    KERNEL(sound_mask),         KERNEL(sound_teams),          KERNEL(sound_row_scalar),
};

}  // namespace

int main(int count, char** names) {
  float* x = new float[kSize];
  float* out = new float[kSize];
  for (int i = 0; i < kSize; ++i) x[i] = static_cast<float>(i);
  for (const Kernel& kernel : kKernels) {
    if (count == 2 && std::strcmp(names[1], kernel.name) == 0) {
      bfn::launch(kernel.run, 2, kSize, static_cast<const float*>(x), out);
      std::puts("done");
    }
  }
  delete[] x;
  delete[] out;
}
