#include "../ops/discretised.h"

#include "operators.h"
#include "records.h"

namespace bfn {
namespace {

// The arguments that give normals: their mean and std or, with the input distribution's mean and the two scales, a
// network's predictions of them. Predictions and logits of a mixture have a last dimension for its components. Without
// log_std, the prediction has both in a last dimension of two.
struct Network {
  const Tensor& prediction;
  const MaybeTensor log_std;
  const MaybeTensor& mixture_logits;
  const MaybeTensor mean = {}, mean_scale = {}, noise_scale = {};

  ScalarType compute_type_with(const Tensor* x) const {
    return compute_type({x, &prediction, get(log_std), get(mixture_logits), get(mean)});
  }

  // A tensor of one number per variable, in the predictions' type.
  Output one_each() const {
    if (!mixture_logits) return output_like(prediction);
    Shape shape = shape_of(prediction);
    shape.pop_back();
    return output(prediction, shape, prediction.scalar_type());
  }

  Parametrisation predicted() const { return mean_scale ? Parametrisation::kNoise : Parametrisation::kData; }

  NetworkOutput over(const Shape& shape, ScalarType type, Parametrisation kind, int64_t num_bins, bool clip,
                     OutputLimits limits = {}) const {
    check(num_bins >= 2, "num_bins", " must be at least 2");
    const int64_t components = mixture_logits ? mixture_logits->size(mixture_logits->dim() - 1) : 1;
    if (components < 1 || components > kMaxComponents) {
      throw std::invalid_argument("mixture_logits must be of 1 to " + std::to_string(kMaxComponents) +
                                  " components, got " + std::to_string(components));
    }
    const Shape each = mixture_logits ? with(shape, components) : shape;
    return {
        .kind = kind,
        .components = components,
        .prediction = log_std ? view("pred_mean", prediction, each) : view_of_half("pred_mean", prediction, each, 0),
        .log_std = log_std ? view("pred_log_std", *log_std, each) : view_of_half("pred_mean", prediction, each, 1),
        .mixture_logits = view("mixture_logits", mixture_logits, each),
        .mean = view("mean", mean, shape),
        .mean_scale = view_of_rows("mean_scale", mean_scale, shape, type),
        .noise_scale = view_of_rows("noise_scale", noise_scale, shape, type),
        .num_bins = num_bins,
        .clip = clip,
        .limits = limits,
    };
  }
};

// The gradients that the forward pass saves, in the shapes of what they are of.
struct Gradients {
  Output mean, std, mixture_logits;
  NetworkGradients views;

  Gradients(const Network& of, ScalarType type, bool need_mean, bool need_std, bool need_mixture_logits)
      : mean(output_of(of.prediction, of.prediction, type, need_mean)),
        std(output_of(of.log_std, of.prediction, type, need_std)),
        mixture_logits(output_of(of.mixture_logits, of.prediction, type, need_mixture_logits)),
        views{mean.view, std.view, mixture_logits.view} {
    if (of.log_std || !need_mean) return;
    Shape each = shape_of(mean.tensor);
    each.pop_back();
    views.grad_prediction = view_of_half("gradient", mean.tensor, each, 0);
    views.grad_log_std = view_of_half("gradient", mean.tensor, each, 1);
  }

 private:
  static Output output_of(const MaybeTensor& x, const Tensor& prediction, ScalarType type, bool needed) {
    return output(prediction, x ? shape_of(*x) : Shape{}, type, needed && x);
  }
};

std::tuple<Tensor, Tensor> output_std_new(const Tensor& pred_log_std, const MaybeTensor& mean_scale,
                                          const MaybeTensor& noise_scale, double std_min, double std_max,
                                          double log_std_max, bool need_pred_log_std) {
  const Shape shape = shape_of(pred_log_std);
  const ScalarType type = compute_type({&pred_log_std});
  const Output out = output_like(pred_log_std), grad = output(pred_log_std, shape, type, need_pred_log_std);
  const OutputStd op{
      .count = numel(shape),
      .from = {.kind = mean_scale ? Parametrisation::kNoise : Parametrisation::kData,
               .components = 1,
               .log_std = view("pred_log_std", pred_log_std, shape),
               .mean_scale = view_of_rows("mean_scale", mean_scale, shape, type),
               .noise_scale = view_of_rows("noise_scale", noise_scale, shape, type),
               .limits = {std_min, std_max, log_std_max}},
      .out = out.view,
      .grad = grad.view,
  };
  compute(type, op, BFN_KERNEL(output_std));
  return {out.tensor, grad.tensor};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> expected_value_new(const Tensor& mean, const Tensor& std,
                                                              const MaybeTensor& mixture_logits, int64_t num_bins,
                                                              bool clip, bool need_mean, bool need_std,
                                                              bool need_mixture_logits) {
  const Network network{mean, std, mixture_logits};
  const Output out = network.one_each();
  const Shape shape = shape_of(out.tensor);
  const ScalarType type = network.compute_type_with(nullptr);
  const Gradients saved(network, type, need_mean, need_std, need_mixture_logits);
  const DiscretisedExpectedValue op{
      .count = numel(shape),
      .from = network.over(shape, type, Parametrisation::kDirect, num_bins, clip),
      .out = out.view,
      .gradients = saved.views,
  };
  compute(type, op, BFN_KERNEL(expected_value));
  return {out.tensor, saved.mean.tensor, saved.std.tensor, saved.mixture_logits.tensor};
}

Tensor choose_new(const Tensor& mean, const Tensor& std, const MaybeTensor& mixture_logits, int64_t num_bins,
                  int64_t choice, const MaybeTensor& seed, const MaybeTensor& noise,
                  const MaybeTensor& component_noise) {
  const Network network{mean, std, mixture_logits};
  const Output out = network.one_each();
  const Shape shape = shape_of(out.tensor);
  const ScalarType type = network.compute_type_with(nullptr);
  const Choice chosen = code("choice", choice, Choice::kMean);
  const bool drawn = chosen == Choice::kSample;
  const Choose op{
      .count = numel(shape),
      .from = network.over(shape, type, Parametrisation::kDirect, num_bins, true),
      .choice = chosen,
      .draw = drawn ? noise_of(seed, noise, shape, kOutput) : Noise{},
      .component = drawn && mixture_logits ? noise_of(seed, component_noise, shape, kComponent) : Noise{},
      .out = out.view,
  };
  compute(type, op, BFN_KERNEL(choose));
  return out.tensor;
}

void step_out(const Tensor& pred_mean, const MaybeTensor& pred_log_std, const MaybeTensor& mixture_logits,
              const MaybeTensor& mean, const MaybeTensor& mean_scale, const MaybeTensor& noise_scale,
              const MaybeTensor& keep, const Tensor& take, const MaybeTensor& std, const MaybeTensor& previous,
              const MaybeTensor& extrapolation, int64_t num_bins, bool clip, double std_min, double std_max,
              double log_std_max, int64_t choice, const MaybeTensor& known, const MaybeTensor& known_mask,
              const MaybeTensor& draw_noise, const MaybeTensor& component_noise, const MaybeTensor& seed,
              const MaybeTensor& noise, Tensor out, const MaybeTensor& predicted_out) {
  const Shape shape = shape_of(given("mean", mean));
  const Network network{pred_mean, pred_log_std, mixture_logits, mean, mean_scale, noise_scale};
  const ScalarType type = network.compute_type_with(get(previous));
  const Choice chosen = code("choice", choice, Choice::kMean);
  const bool drawn = chosen == Choice::kSample;
  const DiscretisedUpdate op{
      .count = numel(shape),
      .from = network.over(shape, type, network.predicted(), num_bins, clip, {std_min, std_max, log_std_max}),
      .choice = chosen,
      .state = view("mean", mean, shape),
      .keep = view_of_rows("keep", keep, shape, type),
      .take = view_of_rows("take", take, shape, type),
      .noise_scale = view_of_rows("std", std, shape, type),
      .known = view("known", known, shape),
      .known_mask = view("known_mask", known_mask, shape),
      .noise = std ? noise_of(seed, noise, shape, kSender) : Noise{},
      .draw = drawn ? noise_of(seed, draw_noise, shape, kOutput) : Noise{},
      .component = drawn && mixture_logits ? noise_of(seed, component_noise, shape, kComponent) : Noise{},
      .out = view_of_out(out, shape),
      .solver = solver_of({}, previous, extrapolation, predicted_out, shape, shape, type),
  };
  compute(type, op, BFN_KERNEL(discretised_update));
}

// The loss, its scale and the saved gradients.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> loss_new(
    const Tensor& x, const Tensor& pred_mean, const MaybeTensor& pred_log_std, const MaybeTensor& mixture_logits,
    const MaybeTensor& mean, const MaybeTensor& mean_scale, const MaybeTensor& noise_scale, const MaybeTensor& weight,
    const MaybeTensor& alpha, bool direct, int64_t n_steps, const Doubles& nodes, const Doubles& node_weights,
    int64_t n_samples, const MaybeTensor& seed, const MaybeTensor& noise, int64_t num_bins, bool clip, double std_min,
    double std_max, double log_std_max, const MaybeTensor& mask, int64_t reduction, bool need_mean, bool need_std,
    bool need_mixture_logits) {
  const Network network{pred_mean, pred_log_std, mixture_logits, mean, mean_scale, noise_scale};
  const Shape shape = shape_of(x);
  const ScalarType type = network.compute_type_with(&x);
  const Parametrisation kind = direct ? Parametrisation::kDirect : network.predicted();
  const Reduced to = reduced(x, mask, reduction, type);
  const Gradients saved(network, type, need_mean, need_std, need_mixture_logits);
  const DiscretisedLoss op{
      .x = view("x", x, shape),
      .from = network.over(shape, type, kind, num_bins, clip, {std_min, std_max, log_std_max}),
      .weight = view_of_rows("weight", weight, shape, type),
      .alpha = view_of_rows("alpha", alpha, shape, type),
      .n_steps = n_steps,
      .draws = alpha ? draws_of(nodes, node_weights, n_samples, seed, noise, shape) : Draws{},
      .gradients = saved.views,
      .to = to.to,
  };
  compute(type, op, BFN_KERNEL(discretised_loss));
  return {to.loss, to.scale, saved.mean.tensor, saved.std.tensor, saved.mixture_logits.tensor};
}

}  // namespace
}  // namespace bfn

BFN_OPERATORS(m) {
  bfn::add<&bfn::output_std_new>(m, "discretised_output_std");
  bfn::add<&bfn::expected_value_new>(m, "discretised_expected_value");
  bfn::add<&bfn::choose_new>(m, "discretised_choose");
  bfn::add_both<&bfn::step_out, 3, 1>(m, "discretised_step", "discretised_step_out");
  bfn::add<&bfn::loss_new>(m, "discretised_loss");
}
