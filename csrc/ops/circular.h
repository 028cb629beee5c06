// The ops of circular data. A null view stands for a missing argument. Angles have the unit of the period.
#pragma once

#include "../math/circular.h"
#include "loss.h"
#include "noise.h"

namespace bfn {

// How a logarithm of a concentration is scaled: (log - least) factor - 1. The concentration itself is wanted if the
// factor is 0.
struct LogScale {
  double least, factor;
};

// mean = x + an angle of a von Mises distribution. Its concentration is given (the sender), or is drawn from the row
// `step` of the table (the flow), which is a row scalar. A step outside of [0, rows) gives NaN.
struct CircularDraw {
  int64_t count;
  View x, concentration, step;
  const float* table;  // [rows, kQuantiles]
  int64_t rows;
  Noise noise;  // normals that draw the concentration; its seed draws the angle, too
  double period;
  LogScale log;
  View mean, drawn;  // the mean, and the concentration or its logarithm
};

// The update of a state by a message about the prediction, or about a known value. If the seed is null, the prediction
// is the message itself.
struct CircularStep {
  int64_t count;
  View prediction, mean, concentration, alpha, known, known_mask;
  const int64_t* seed;
  double period;
  LogScale log;
  View new_mean, new_concentration, new_log;
};

enum class CircularCost : int64_t { kCosine, kSquare, kDensity };

// weight (1 - cos d), weight d^2, or -ln of the von Mises density with the concentration `weight`. A gradient is null
// if it is not wanted.
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
