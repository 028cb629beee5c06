#include "../ops/binary.h"

#include "bad_class.h"
#include "loss.h"
#include "noise.h"
#include "solver.h"

namespace bfn {
namespace {

// Applies guidance to the network's logits. It is not inlined, so that the loops of ordinary updates stay small.
template <class T>
[[gnu::noinline]] void guide(const Guidance& guidance, int64_t start, int64_t length, const T* z, T* out) {
  T buffers[3][kBlock];
  const T* scale = load(guidance.logit_scale, start, length, buffers[0], T(1));
  const T* other = load(guidance.unconditional, start, length, buffers[1]);
  const T* other_scale = load(guidance.unconditional_scale, start, length, buffers[2]);
  for (int64_t i = 0; i < length; ++i) out[i] = guided(z[i], scale[i], other[i], other_scale[i]);
}

// Everything that a solver's step does before it adds the message. It extrapolates `sent`, which are signs or numbers
// 2p - 1. It returns keep times the state, to which the caller adds the message.
template <class T>
[[gnu::noinline]] const T* solve(const Solver& op, int64_t start, int64_t length, const T* state, T* sent, T* buffer) {
  for (int64_t i = 0; i < length; ++i) sent[i] = binary_share_of(sent[i]);
  extrapolate(op, start, length, sent);
  for (int64_t i = 0; i < length; ++i) sent[i] = 2 * sent[i] - 1;
  if (!op.keep) return state;
  T scale_buffer[kBlock];
  const T* keep = load(op.keep, start, length, scale_buffer);
  for (int64_t i = 0; i < length; ++i) buffer[i] = keep[i] * state[i];
  return buffer;
}

// Writes what each variable sends: the sign of a class, or 2p - 1. If its logit is NaN, it sends NaN.
template <class T>
void choose(const BinaryUpdate& op, int64_t start, int64_t length, T* __restrict sent) {
  T buffer[kBlock], guided_logits[kBlock], uniform_buffer[noise_buffer_size(kBlock)];
  const T* z = load(op.output_logits, start, length, buffer);
  if (op.guidance.on()) {
    guide(op.guidance, start, length, z, guided_logits);
    z = guided_logits;
  }
  switch (op.sent.choice) {
    case Choice::kSample: {
      const T* u = uniforms_of(op.sent.draw, start, length, uniform_buffer);
      for (int64_t i = 0; i < length; ++i) sent[i] = binary_drawn(BinaryShares<T>(z[i]), u[i]);
      break;
    }
    case Choice::kMode:
      for (int64_t i = 0; i < length; ++i) sent[i] = z[i] > T(0) ? T(1) : T(-1);
      break;
    case Choice::kMean:
      for (int64_t i = 0; i < length; ++i) sent[i] = 2 * BinaryShares<T>(z[i]).p - 1;
  }
  for (int64_t i = 0; i < length; ++i) sent[i] = z[i] == z[i] ? sent[i] : kNaN<T>;
}

// For each variable of a block, the mean of binary_draw over the draws or nodes: `value`, and its derivative by u,
// `slope`. L_n is n_steps * coordinates * value, with 2 coordinates for the factorised receiver and 1 for the joint
// receiver. Here s is the sign of class x, u is s z for the logit z, p is p_x = sigmoid(u), and q is 1 - p_x.
template <class T>
struct NStepBlock {
  int64_t length;
  T s[kBlock], u[kBlock], p[kBlock], q[kBlock];
  T value[kBlock] = {}, slope[kBlock] = {};

  // Adds a draw to the variables [begin, end). r(i) is the log-ratio of variable i.
  template <class R>
  void add(int64_t begin, int64_t end, T weight, R&& r) {
    int32_t out_of_range = 0;  // an integer, since compilers do not vectorise a loop over bool
    for (int64_t i = begin; i < end; ++i) out_of_range |= abs(r(i)) <= T(kMaxLogRatio) ? 0 : 1;
    if (!out_of_range) {
      for (int64_t i = begin; i < end; ++i) accumulate(i, weight, binary_draw(p[i], q[i], exp_and_expm1(-r(i))));
      return;
    }
    for (int64_t i = begin; i < end; ++i) {
      const bool within = abs(r(i)) <= T(kMaxLogRatio);
      accumulate(i, weight,
                 within ? binary_draw(p[i], q[i], exp_and_expm1(-r(i))) : binary_draw_out_of_range(u[i], q[i], r(i)));
    }
  }
  // Adds a draw with the same log-ratio r for all variables [begin, end).
  void add_same(int64_t begin, int64_t end, T weight, T r) {
    if (!(abs(r) <= T(kMaxLogRatio))) return add(begin, end, weight, [r](int64_t) { return r; });
    const ExpAndExpm1<T> ratio = exp_and_expm1(-r);
    for (int64_t i = begin; i < end; ++i) accumulate(i, weight, binary_draw(p[i], q[i], ratio));
  }

 private:
  void accumulate(int64_t i, T weight, BinaryTerm<T> term) {
    value[i] += weight * term.value;
    slope[i] += weight * term.slope;
  }
};

}  // namespace

template <class T>
void binary_sender(const BinarySender& op) {
  BadClass bad;
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[2][kBlock], s[kBlock], d[kBlock], normals[noise_buffer_size(kBlock)];
    const T* eps = normals_of(op.noise, start, length, normals, 0, 0, Prefetch<T>({&op.out}, start));
    load_signs(op.x, start, length, nullptr, s, bad);
    const T* alpha = load(op.alpha, start, length, buffers[0]);
    const T* spread = load(op.spread, start, length, buffers[1]);
    for (int64_t i = 0; i < length; ++i) d[i] = binary_message(s[i], alpha[i], spread[i], eps[i]);
    for (int64_t i = 0; op.probs && i < length; ++i) {
      // In float BinaryShares is faster, and its clamp changes only results below 2e-38.
      d[i] = sizeof(T) == sizeof(float) ? BinaryShares<T>(-d[i]).q : sigmoid(d[i]);
    }
    store(op.out, start, length, d);
  });
  bad.throw_if_found("x", 2);
}

template <class T>
void binary_update(const BinaryUpdate& op) {
  BadClass bad;
  for_blocks(op.count, 1, [&](int64_t start, int64_t length) {
    T buffers[4][kBlock], sent[kBlock], updated[kBlock], normals[noise_buffer_size(kBlock)];
    const Prefetch<T> prefetch({&op.state, &op.output_logits}, start);
    const T* eps = normals_or_zeros(op.noise, start, length, normals, prefetch);
    choose(op, start, length, sent);
    if (op.sent.known) {
      uint8_t mask_buffer[kBlock];
      T known[kBlock];
      const uint8_t* mask = load(op.sent.known_mask, start, length, mask_buffer);
      load_signs(op.sent.known, start, length, mask, known, bad);
      for (int64_t i = 0; i < length; ++i) sent[i] = mask[i] ? known[i] : sent[i];
    }
    const T* state = load(op.state, start, length, buffers[0]);
    const T* alpha = load(op.solver.take, start, length, buffers[1]);
    const T* spread = load(op.solver.std, start, length, buffers[2]);
    if (op.solver.on()) state = solve(op.solver, start, length, state, sent, buffers[3]);
    for (int64_t i = 0; i < length; ++i) {
      updated[i] = state[i] + binary_message(sent[i], alpha[i], spread[i], eps[i]);
    }
    store(op.out, start, length, updated);
    if (!op.theta) return;
    const T* d = op.out.dtype == dtype_of<T>() ? updated : load(op.out, start, length, buffers[0]);
    for (int64_t i = 0; i < length; ++i) buffers[3][i] = sigmoid(d[i]);
    store(op.theta, start, length, buffers[3]);
  });
  bad.throw_if_found("known", 2);
}

template <class T>
void binary_nstep(const BinaryNStep& op) {
  BadClass bad;
  const int64_t coordinates = op.receiver == Receiver::kFactorised ? 2 : 1, count = op.to.batch * op.to.per_batch;
  // The factorised receiver treats the two coordinates of a message, one for each class, as independent. The loss of
  // each coordinate is the loss that the joint receiver has with half the accuracy.
  const T share = T(1) / static_cast<T>(coordinates), factor = static_cast<T>(coordinates * op.n_steps);
  const T scale = factor * known_scale<T>(op.to);
  const auto make = [] { return NoScratch{}; };
  reduce_losses<T>(op.to, 1, make, [&](int64_t start, int64_t length, const uint8_t* mask, T* __restrict loss, auto) {
    NStepBlock<T> block;
    T buffer[kBlock], alpha[kBlock], spread[kBlock], normals[noise_buffer_size(kBlock)];
    load_signs(op.x, start, length, mask, block.s, bad);
    const T* z = load(op.logits, start, length, buffer);
    for (int64_t i = 0; i < length; ++i) {
      block.u[i] = block.s[i] * z[i];
      const BinaryShares<T> shares(block.u[i]);
      block.p[i] = shares.p;
      block.q[i] = shares.q;
    }
    const T* whole_alpha = load(op.alpha, start, length, normals);
    for (int64_t i = 0; i < length; ++i) alpha[i] = share * whole_alpha[i];
    for (int64_t i = 0; i < length; ++i) spread[i] = 2 * sqrt(alpha[i]);
    for (int64_t draw = 0; draw < op.draws.count(); ++draw) {
      const T weight = weight_of<T>(op.draws, draw);
      if (op.draws.n_samples) {
        const T* eps = normals_of(op.draws.noise, start, length, normals, draw, count);
        block.add(0, length, weight,
                  [&](int64_t i) { return binary_log_ratio(alpha[i], spread[i], block.s[i] * eps[i]); });
        continue;
      }
      const T node = static_cast<T>(op.draws.nodes[draw]);
      for_runs(op.alpha, start, length, [&](int64_t, int64_t stride, int64_t at, int64_t run) {
        if (stride == 0) return block.add_same(at, at + run, weight, binary_log_ratio(alpha[at], spread[at], node));
        block.add(at, at + run, weight, [&](int64_t i) { return binary_log_ratio(alpha[i], spread[i], node); });
      });
    }
    for (int64_t i = 0; i < length; ++i) loss[i] = factor * block.value[i];
    if (!op.grad_logits) return;
    SavedGradient<T> by_z(op.grad_logits, start, length, mask);
    for (int64_t i = 0; i < length; ++i) by_z.out[i] = scale * block.s[i] * block.slope[i];
    by_z.write();
  });
  store_unit_scale<T>(op.to);
  bad.throw_if_found("x", 2);
}

BFN_INSTANTIATE(binary_sender, const BinarySender&);
BFN_INSTANTIATE(binary_update, const BinaryUpdate&);
BFN_INSTANTIATE(binary_nstep, const BinaryNStep&);

}  // namespace bfn
