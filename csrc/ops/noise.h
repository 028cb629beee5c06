// Where the noise of an op comes from: an explicit tensor, or a seed and a stream.
#pragma once

#include "../math/philox.h"
#include "view.h"

namespace bfn {

struct Noise {
  View explicit_values;
  const int64_t* seed = nullptr;  // in the memory of the data's device, so that a CUDA graph reads the current seed
  uint32_t stream = kSender;

  BFN_HD bool any() const { return explicit_values || seed; }
};

// The normals of an expectation: n_samples random draws or, if n_samples is 0, the nodes of a quadrature.
struct Draws {
  int64_t n_samples, num_nodes;
  const double *nodes, *node_weights;  // in the memory of the host
  Noise noise;

  BFN_HD int64_t count() const { return n_samples ? n_samples : num_nodes; }
};

// The receiver distribution of a message about classes. kJoint is the receiver of the paper. kFactorised is a product
// of mixtures, one for each coordinate of the message.
enum class Receiver : int64_t { kJoint, kFactorised };

// Which value of the network's output distribution a sampler sends: a random sample, the mode or the mean.
enum class Choice : int64_t { kSample, kMode, kMean };

// What a step sends: a value of the output distribution or, where known_mask is not 0, the known value.
struct Sent {
  Choice choice;
  View known, known_mask;
  Noise draw;  // draws the sample of kSample
};

}  // namespace bfn
