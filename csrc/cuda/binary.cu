#include "../ops/binary.h"

#include "access.h"
#include "loss.h"
#include "nodes.h"
#include "solver.h"

namespace bfn {
namespace {

template <class At>
__global__ void __launch_bounds__(kThreads, 2)
    binary_sender_kernel(const __grid_constant__ BinarySender op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const int64_t seed = seed_of(op.noise);
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    T s[kCount], alpha[kCount], spread[kCount], d[kCount];
    at.each_class(op.x, [&](int j, auto x) { s[j] = binary_sign<T>(x); });
    at.rows(op.alpha, alpha);
    at.rows(op.spread, spread);
    at.noise(op.noise, seed, d);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      d[j] = binary_message(s[j], alpha[j], spread[j], d[j]);
      if (op.probs) d[j] = sigmoid(d[j]);
    }
    at.store_data(op.out, d);
  });
}

// What a variable with this logit sends: the sign of a class, or 2p - 1. If the logit is NaN, it sends NaN.
template <Choice kChoice, class T>
__device__ T sent_by(T z, T uniform) {
  T sent;
  if constexpr (kChoice == Choice::kSample) {
    sent = binary_drawn(BinaryShares<T>(z), uniform);
  } else if constexpr (kChoice == Choice::kMode) {
    sent = z > T(0) ? T(1) : T(-1);
  } else {
    sent = 2 * BinaryShares<T>(z).p - 1;
  }
  return z == z ? sent : kNaN<T>;
}

// Extrapolates what the variables send, signs or numbers 2p - 1. A solver stores its predictions as probabilities. So
// the numbers are turned into probabilities and back.
template <class At, class T, int kCount>
__device__ __forceinline__ void extrapolate_signs(const At& at, const Solver& op, T (&sent)[kCount]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) sent[j] = binary_share_of(sent[j]);
  extrapolate(at, op, sent);
#pragma unroll
  for (int j = 0; j < kCount; ++j) sent[j] = 2 * sent[j] - 1;
}

template <class At, Choice kChoice>
__global__ void __launch_bounds__(kThreads, 2)
    binary_update_kernel(const __grid_constant__ BinaryUpdate op, const __grid_constant__ RowMap rows) {
  using T = typename At::Compute;
  const int64_t seed = seed_of(op.noise), draw_seed = seed_of(op.sent.draw);
  for_grid<At>(op.count, rows, [&](auto at) {
    constexpr int kCount = decltype(at)::kCount;
    T sent[kCount], uniform[kCount] = {}, state[kCount], keep[kCount], alpha[kCount], spread[kCount], eps[kCount] = {};
    at.network(op.output_logits, sent);
    if (op.guidance.on()) guide(at, op.guidance, sent);
    if constexpr (kChoice == Choice::kSample) at.uniforms(op.sent.draw, draw_seed, uniform);
#pragma unroll
    for (int j = 0; j < kCount; ++j) sent[j] = sent_by<kChoice>(sent[j], uniform[j]);
    if (op.sent.known) {
      bool is_known[kCount];
      at.mask(op.sent.known_mask, is_known);
      at.each_class(op.sent.known, [&](int j, auto x) { sent[j] = is_known[j] ? binary_sign<T>(x) : sent[j]; });
    }
    at.data(op.state, state);
    at.rows(op.solver.take, alpha);
    at.rows(op.solver.std, spread);
    if (op.noise.any()) at.noise(op.noise, seed, eps);
    if (op.solver.on()) extrapolate_signs(at, op.solver, sent);
    at.rows(op.solver.keep, keep, T(1));
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      state[j] = fused(keep[j], state[j], binary_message(sent[j], alpha[j], spread[j], eps[j]));
    }
    at.store_data(op.out, state);
    if (!op.theta) return;
    at.data(op.out, state);
#pragma unroll
    for (int j = 0; j < kCount; ++j) state[j] = sigmoid(state[j]);
    at.store_data(op.theta, state);
  });
}

// With packs of eight variables, threads need so many registers that a multiprocessor has room for one block instead of
// two.
template <class At>
__global__ void __launch_bounds__(kThreads, At::kCount > 4 ? 1 : 2)
    binary_nstep_kernel(const __grid_constant__ BinaryNStep op, const __grid_constant__ RowMap rows,
                        const __grid_constant__ Nodes<typename At::Compute> nodes, const Chunks chunks) {
  using T = typename At::Compute;
  const int64_t seed = seed_of(op.draws.noise), count = op.to.batch * op.to.per_batch;
  const int draws = static_cast<int>(op.draws.count());
  const bool by_nodes = op.draws.n_samples == 0;
  // The factorised receiver treats the two coordinates of a message, one for each class, as independent. The loss of
  // each coordinate is the loss that the joint receiver has with half the accuracy.
  const T coordinates = op.receiver == Receiver::kFactorised ? T(2) : T(1);
  const T factor = coordinates * static_cast<T>(op.n_steps);
  reduce_losses<At>(op.to, chunks, rows, [&](auto at, const auto& on, auto& loss) {
    constexpr int kCount = decltype(at)::kCount;
    // math/binary.h explains s, u, p and q. `slope` is the derivative of the loss by u.
    T s[kCount], u[kCount], p[kCount], q[kCount], alpha[kCount], spread[kCount], slope[kCount];
    at.each_class(op.x, [&](int j, auto x) { s[j] = binary_sign<T>(x); });
    at.data(op.logits, u);
    at.rows(op.alpha, alpha);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      u[j] *= s[j];
      const BinaryShares<T> shares(u[j]);
      p[j] = shares.p;
      q[j] = shares.q;
      alpha[j] /= coordinates;
      spread[j] = 2 * sqrt(alpha[j]);
      loss[j] = slope[j] = 0;
    }
#pragma unroll 1
    for (int draw = 0; draw < draws; ++draw) {
      T eps[kCount];
      if (!by_nodes) at.noise(op.draws.noise, seed, eps, static_cast<uint32_t>(draw), count);
      const T weight = factor * (by_nodes ? nodes.weight[draw] : T(1) / static_cast<T>(draws));
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const T r = binary_log_ratio(alpha[j], spread[j], by_nodes ? nodes.at[draw] : s[j] * eps[j]);
        const BinaryTerm<T> term = abs(r) <= T(kMaxLogRatio) ? binary_draw(p[j], q[j], exp_and_expm1(-r))
                                                             : binary_draw_out_of_range(u[j], q[j], r);
        loss[j] += weight * term.value;
        slope[j] += weight * term.slope;
      }
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) slope[j] = on[j] ? s[j] * slope[j] : T(0);
    if (op.grad_logits) at.store_compute(op.grad_logits, slope);
  });
}

}  // namespace

template <class T>
void binary_sender(const BinarySender& op) {
  const Layout layout = Layout().classes(op.x).rows(op.alpha).rows(op.spread).noise(op.noise).data(op.out);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    launch(&binary_sender_kernel<At>, grid_for<At>(op.count), kThreads, op, layout.row_map());
  });
}

template <class T>
void binary_update(const BinaryUpdate& op) {
  Layout layout = Layout()
                      .network(op.output_logits)
                      .data(op.state)
                      .data(op.out)
                      .data(op.theta)
                      .classes(op.sent.known)
                      .bytes(op.sent.known_mask)
                      .noise(op.noise)
                      .noise(op.sent.draw);
  with_solver(layout, op.solver)
      .network(op.guidance.unconditional)
      .rows(op.guidance.logit_scale)
      .rows(op.guidance.unconditional_scale);
  with_network_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    const auto kernel = op.sent.choice == Choice::kSample ? &binary_update_kernel<At, Choice::kSample>
                        : op.sent.choice == Choice::kMode ? &binary_update_kernel<At, Choice::kMode>
                                                          : &binary_update_kernel<At, Choice::kMean>;
    launch(kernel, grid_for<At>(op.count), kThreads, op, layout.row_map());
  });
}

template <class T>
void binary_nstep(const BinaryNStep& op) {
  const Layout layout =
      Layout().classes(op.x).data(op.logits).rows(op.alpha).bytes(op.to.mask).losses(op.to).noise(op.draws.noise);
  with_access<T>(layout, [&](auto tag) {
    using At = typename decltype(tag)::type;
    const Chunks chunks = chunks_of(op.to, int64_t{kThreads} * At::kCount);
    launch(&binary_nstep_kernel<At>, chunks.blocks, kThreads, op, layout.row_map(), Nodes<T>(op.draws), chunks);
    finish_losses<T>(op.to, chunks);
  });
}

BFN_INSTANTIATE(binary_sender, const BinarySender&);
BFN_INSTANTIATE(binary_update, const BinaryUpdate&);
BFN_INSTANTIATE(binary_nstep, const BinaryNStep&);

}  // namespace bfn
