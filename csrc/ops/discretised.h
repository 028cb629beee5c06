// The ops of discretised data. A null view stands for a missing argument.
#pragma once

#include "../math/discretised.h"
#include "loss.h"
#include "noise.h"
#include "solver.h"

namespace bfn {

constexpr int64_t kMaxComponents = 1024;  // the most components of a mixture

// The two predictions, and the numbers that turn them into a normal (105, 106). With `kDirect` the predictions are the
// normal's mean and std, and the limits do not apply. A variable of a mixture has `components` pairs of predictions and
// as many mixture logits.
struct NetworkOutput {
  Parametrisation kind;
  int64_t components;
  View prediction, log_std, mixture_logits, mean, mean_scale, noise_scale;
  int64_t num_bins;
  bool clip;
  OutputLimits limits;
};

struct NetworkGradients {
  View grad_prediction, grad_log_std, grad_mixture_logits;  // null for a gradient that is not wanted
};

// The std of the output normal and, if `grad` is not null, its derivative by log_std. The views of the prediction and
// the mean are null.
struct OutputStd {
  int64_t count;
  NetworkOutput from;
  View out, grad;
};

struct DiscretisedExpectedValue {
  int64_t count;
  NetworkOutput from;
  View out;
  NetworkGradients gradients;
};

// The value that a sampler sends.
struct Choose {
  int64_t count;
  NetworkOutput from;
  Sent sent;
  Noise component;
  View out;
};

// The state is the mean of `from`.
struct DiscretisedUpdate {
  int64_t count;
  NetworkOutput from;
  Solver solver;
  Sent sent;
  Noise component, noise;
  View out;
};

// L_inf has a weight. L_n has an alpha, and the normals of its expectation. The reconstruction loss has none of these.
struct DiscretisedLoss {
  View x;
  NetworkOutput from;
  View weight, alpha;
  int64_t n_steps;
  Draws draws;
  NetworkGradients gradients;
  LossTarget to;
};

template <class T>
void output_std(const OutputStd& op);
template <class T>
void expected_value(const DiscretisedExpectedValue& op);
template <class T>
void choose(const Choose& op);
template <class T>
void discretised_update(const DiscretisedUpdate& op);
template <class T>
void discretised_loss(const DiscretisedLoss& op);

}  // namespace bfn
