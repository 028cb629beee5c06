// The ops of circular data. A null view stands for an argument that was not passed. Angles have the unit of `period`,
// which is the whole circle.
#pragma once

#include "../math/circular.h"
#include "loss.h"
#include "noise.h"

namespace bfn {

// An op can write the logarithm of a concentration, scaled to (log - least) factor - 1. If `factor` is 0, it writes the
// concentration itself.
struct LogScale {
  double least, factor;
};

// mean = x + an angle of a von Mises distribution. The sender passes the concentration of this distribution. The flow
// passes a table instead, and draws the concentration from row `step` of the table. `step` is a row scalar. A step
// outside [0, rows) gives NaN.
struct CircularDraw {
  int64_t count;
  View x, concentration, step;
  const float* table;  // [rows, kQuantiles]
  int64_t rows;
  Noise noise;  // its normals draw the concentration, and its seed draws the angle
  double period;
  LogScale log;
  View mean, drawn;  // the mean, and the concentration or its logarithm
};

// Updates a state by a message. The message is drawn about the prediction or, where known_mask is not 0, about the
// known value. If `seed` is null, nothing is drawn: the prediction or the known value is itself the message.
struct CircularStep {
  int64_t count;
  View prediction, mean, concentration, alpha, known, known_mask;
  const int64_t* seed;
  double period;
  LogScale log;
  View new_mean, new_concentration, new_log;
};

enum class CircularCost : int64_t { kCosine, kSquare, kDensity };

// The cost of d, the angle from the prediction to x. kCosine is weight (1 - cos d), kSquare is weight d^2, and kDensity
// is -ln of the von Mises density with the concentration `weight`. A gradient is null if it is not needed.
struct CircularLoss {
  CircularCost cost;
  double period;
  View x, prediction, weight, grad_prediction, grad_weight;
  LossTarget to;
};

template <class T>
void circular_draw(const CircularDraw& op);
template <class T>
void circular_step(const CircularStep& op);
template <class T>
void circular_loss(const CircularLoss& op);

}  // namespace bfn
