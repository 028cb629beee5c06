// The ops of circular data. A null view stands for an argument that was not passed. Angles have the unit of `period`,
// which is the whole circle.
#pragma once

#include "../math/circular.h"
#include "noise.h"

namespace bfn {

// A message about `sent` or, where known_mask is not 0, about the known value, updates a state. Without a state, the
// message itself is the new state. Without noise, nothing is drawn: the angle that is sent is the message.
struct CircularStep {
  int64_t count;
  View sent, mean, concentration, known, known_mask;
  View alpha;          // the accuracy of the message or, with a table, the row from which it is drawn; a row scalar
  const float* table;  // [rows, kQuantiles], or null; a row outside [0, rows) gives NaN
  int64_t rows;
  Noise normals;  // draws the accuracy from the table
  Noise angle;    // draws the angle; explicit values have the shape [proposals, 2, count]
  int64_t proposals;
  double period, log_least, log_factor;
  double certain;  // if not 0, known angles are sent without noise, with this accuracy; only with a table
  View new_mean, new_concentration;
  View new_log;  // receives the logarithm of the new concentration, scaled to (log - log_least) log_factor - 1
};

template <class T>
void circular_step(const CircularStep& op);

}  // namespace bfn
