// Where the noise of an op comes from: an explicit tensor, or a seed and a stream.
#pragma once

#include "../math/philox.h"
#include "view.h"

namespace bfn {

struct Noise {
  View explicit_values;
  const int64_t* seed = nullptr;  // on the data's device, so that a captured graph reads its current value
  uint32_t stream = kSender;

  BFN_HD bool any() const { return explicit_values || seed; }
};

// The normals over which an expectation is computed: n_samples draws of the noise or, if n_samples is 0, the nodes of a
// quadrature.
struct Draws {
  int64_t n_samples, num_nodes;
  const double *nodes, *node_weights;  // on the host
  Noise noise;

  BFN_HD int64_t count() const { return n_samples ? n_samples : num_nodes; }
};

// The receiver distribution of classes: the receiver of the paper (kJoint), or a product that has a mixture for each
// coordinate of the message (kFactorised).
enum class Receiver : int64_t { kJoint, kFactorised };

// Which value of the network's output distribution a sampler sends.
enum class Choice : int64_t { kSample, kMode, kMean };

// What a step sends: a value chosen from the output distribution or, if the mask is not 0, the known value.
struct Sent {
  Choice choice;
  View known, known_mask;
  Noise draw;  // the noise that draws a sample
};

}  // namespace bfn
