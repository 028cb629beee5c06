// The ops of discretised data. A null view stands for an argument that was not passed.
// Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037).
#pragma once

#include "../math/discretised.h"
#include "loss.h"
#include "noise.h"
#include "solver.h"

namespace bfn {

constexpr int64_t kMaxComponents = 1024;  // the most components of a mixture

// The network's two predictions, and the numbers that turn them into a normal distribution (105, 106). With `kDirect`
// the predictions are the mean and the std of this distribution, and the limits do not apply. If the output
// distribution is a mixture, each variable has `components` pairs of predictions and as many mixture logits.
struct NetworkOutput {
  Parametrisation kind;
  int64_t components;
  View prediction, log_std, mixture_logits, mean, mean_scale, noise_scale;
  int64_t num_bins;
  bool clip;
  OutputLimits<double> limits;
};

struct NetworkGradients {
  View grad_prediction, grad_log_std, grad_mixture_logits;  // null for a gradient that is not needed

  BFN_HD bool any() const { return grad_prediction || grad_log_std || grad_mixture_logits; }
};

// out is the std of the output normal. If `grad` is not null, it receives the derivative of this std by log_std. The
// views `prediction` and `mean` of `from` are null.
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

// out is the value that a sampler sends. `component` is the noise that draws a component of a mixture.
struct Choose {
  int64_t count;
  NetworkOutput from;
  Sent sent;
  Noise component;
  View out;
};

// Sends a value as Choose does, and updates the state, which is `from.mean`.
struct DiscretisedUpdate {
  int64_t count;
  NetworkOutput from;
  Solver solver;
  Sent sent;
  Noise component, noise;
  View out;
};

// With a weight the loss is L_inf. With an alpha it is L_n, and `draws` are the normals of its expectation. Without
// both it is the reconstruction loss.
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
