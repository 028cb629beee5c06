// Where the noise of an op comes from: an explicit tensor, or a seed and a stream.
#pragma once

#include "../math/philox.h"
#include "view.h"

namespace bfn {

struct Noise {
  View explicit_values;
  const int64_t* seed = nullptr;  // on the data's device, so that a captured graph replays with the value of that time
  uint32_t stream = kSender;

  BFN_HD bool any() const { return explicit_values || seed; }
};

// The normals of an expectation: `n_samples` draws of the noise or, where that is 0, the nodes of a quadrature.
struct Draws {
  int64_t n_samples, num_nodes;
  const double *nodes, *node_weights;  // on the host
  Noise noise;

  BFN_HD int64_t count() const { return n_samples ? n_samples : num_nodes; }
};

// The receiver of classes: that of the paper, or a mixture of its own for each coordinate of a message.
enum class Receiver : int64_t { kJoint, kFactorised };

// What a sampler sends of the network's output distribution.
enum class Choice : int64_t { kSample, kMode, kMean };

// The message of a step: a choice or, where the mask is not 0, what is known.
struct Sent {
  Choice choice;
  View known, known_mask;
  Noise draw;  // draws a sample
};

}  // namespace bfn
