// The ops of binary data. A null view stands for an argument that was not passed. If a class is out of range, the CPU
// throws std::out_of_range. The GPU writes NaN instead, since it would have to synchronise to throw.
// Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "../math/binary.h"
#include "loss.h"
#include "noise.h"
#include "solver.h"

namespace bfn {

// out is the message or, if `probs` is set, its sigmoid. `spread` is 2 sqrt(alpha).
struct BinarySender {
  int64_t count;
  View x, alpha, spread;
  bool probs;
  Noise noise;
  View out;
};

struct BinaryUpdate {
  int64_t count;
  View output_logits, state;
  Solver solver;
  Guidance guidance;
  Sent sent;
  Noise noise;
  View out, theta;  // theta may be null; otherwise it receives the sigmoid of `out`
};

// L_n (189, 190). A node of a quadrature stands for s eps instead of the noise eps, where s = 2x - 1 is the sign of the
// class. The expectation is the same, since the nodes are symmetric about 0.
struct BinaryNStep {
  int64_t n_steps;
  Receiver receiver;
  Draws draws;
  View x, logits, alpha;
  View grad_logits;
  LossTarget to;
};

template <class T>
void binary_sender(const BinarySender& op);
template <class T>
void binary_update(const BinaryUpdate& op);
template <class T>
void binary_nstep(const BinaryNStep& op);

}  // namespace bfn
