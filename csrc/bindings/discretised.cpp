#include "../ops/discretised.h"

#include "operators.h"
#include "records.h"

namespace bfn::bindings {
namespace {

struct Bins {
  int64_t num_bins;
  bool clip;
  double std_min = 0, std_max = 0, log_std_max = 0;  // unused if the std itself is given
  auto fields() const { return std::tie(num_bins, clip, std_min, std_max, log_std_max); }
};

// Which outputs of the network need a gradient.
struct Needs {
  bool pred_mean, pred_log_std, mixture_logits;
  auto fields() const { return std::tie(pred_mean, pred_log_std, mixture_logits); }
};

// The gradients that the forward pass saves. Each has the shape of the tensor that it belongs to.
struct Gradients {
  Tensor pred_mean, pred_log_std, mixture_logits;
  NetworkGradients views;
};

// The predictions may be a mean and a std themselves. The predictions and logits of a mixture have a last dimension for
// the components. Without pred_log_std, pred_mean has both predictions in a last dimension of size two.
struct Network {
  Tensor pred_mean;
  MaybeTensor pred_log_std, mixture_logits, mean, mean_scale, noise_scale;
  auto fields() const { return std::tie(pred_mean, pred_log_std, mixture_logits, mean, mean_scale, noise_scale); }

  template <class... X>
  ScalarType type_with(const X&... others) const {
    return compute_type(pred_mean, pred_log_std, mixture_logits, mean, others...);
  }

  // A tensor with one number for each variable, in the type of the predictions.
  Output one_each() const {
    if (!mixture_logits) return output_like(pred_mean);
    return output(pred_mean, without_last(shape_of(pred_mean)), pred_mean.scalar_type());
  }

  NetworkOutput over(const Shape& shape, ScalarType type, const Bins& bins, bool direct = false) const {
    check(bins.num_bins >= 2, "num_bins", " must be at least 2");
    const int64_t components = mixture_logits ? mixture_logits->size(mixture_logits->dim() - 1) : 1;
    if (components < 1 || components > kMaxComponents) {
      throw std::invalid_argument("mixture_logits must be of 1 to " + std::to_string(kMaxComponents) +
                                  " components, got " + std::to_string(components));
    }
    const Shape each = mixture_logits ? with(shape, components) : shape;
    const auto half = [&](int64_t which) { return view_of_half("pred_mean", pred_mean, each, which); };
    return {
        .kind = direct       ? Parametrisation::kDirect
                : mean_scale ? Parametrisation::kNoise
                             : Parametrisation::kData,
        .components = components,
        .prediction = pred_log_std ? view("pred_mean", pred_mean, each) : half(0),
        .log_std = pred_log_std ? view("pred_log_std", *pred_log_std, each) : half(1),
        .mixture_logits = view("mixture_logits", mixture_logits, each),
        .mean = view("mean", mean, shape),
        .mean_scale = view_of_rows("mean_scale", mean_scale, shape, type),
        .noise_scale = view_of_rows("noise_scale", noise_scale, shape, type),
        .num_bins = bins.num_bins,
        .clip = bins.clip,
        .limits = {bins.std_min, bins.std_max, bins.log_std_max},
    };
  }

  Gradients gradients(ScalarType type, const Needs& need) const {
    const auto like = [&](Maybe x, bool needed) {
      return output(pred_mean, x ? shape_of(*x) : Shape{}, type, needed && x);
    };
    const Output by_mean = like(pred_mean, need.pred_mean), by_std = like(pred_log_std, need.pred_log_std);
    const Output by_logits = like(mixture_logits, need.mixture_logits);
    Gradients made{by_mean.tensor, by_std.tensor, by_logits.tensor, {by_mean.view, by_std.view, by_logits.view}};
    if (!pred_log_std && need.pred_mean) {
      const Shape each = without_last(shape_of(pred_mean));
      made.views.grad_prediction = view_of_half("gradient", made.pred_mean, each, 0);
      made.views.grad_log_std = view_of_half("gradient", made.pred_mean, each, 1);
    }
    return made;
  }
};

auto output_std_new(Given pred_log_std, Maybe mean_scale, Maybe noise_scale, double std_min, double std_max,
                    double log_std_max, bool need_pred_log_std) {
  const Shape shape = shape_of(pred_log_std);
  const ScalarType type = compute_type(pred_log_std);
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
  return compute(type, op, BFN_KERNEL(output_std), out.tensor, grad.tensor);
}

auto expected_value_new(Given mean, Given std, Maybe mixture_logits, int64_t num_bins, bool clip, const Needs& need) {
  const Network network{mean, std, mixture_logits};
  const Output out = network.one_each();
  const Shape shape = shape_of(out.tensor);
  const ScalarType type = network.type_with();
  const Gradients saved = network.gradients(type, need);
  const DiscretisedExpectedValue op{
      .count = numel(shape),
      .from = network.over(shape, type, {num_bins, clip}, true),
      .out = out.view,
      .gradients = saved.views,
  };
  return compute(type, op, BFN_KERNEL(expected_value), out.tensor, saved.pred_mean, saved.pred_log_std,
                 saved.mixture_logits);
}

auto choose_new(Given mean, Given std, Maybe mixture_logits, int64_t num_bins, int64_t choice, const Noise& noise,
                Maybe component_noise) {
  const Network network{mean, std, mixture_logits};
  const Output out = network.one_each();
  const Shape shape = shape_of(out.tensor);
  const ScalarType type = network.type_with();
  const Sent sent{.choice = choice, .draw_noise = noise.noise};
  const Choose op{
      .count = numel(shape),
      .from = network.over(shape, type, {num_bins, true}, true),
      .sent = sent.over(shape, noise.seed, kOutput),
      .component = Noise{noise.seed, component_noise}.over(shape, kComponent, sent.draws() && mixture_logits),
      .out = out.view,
  };
  return compute(type, op, BFN_KERNEL(choose), out.tensor);
}

auto step(const Network& network, const Solver& solver, const Bins& bins, const Sent& sent, Maybe component_noise,
          const Noise& noise, const Out& to, Maybe predicted_out) {
  Given mean = given("mean", network.mean);
  const Shape shape = shape_of(mean);
  const ScalarType type = network.type_with(solver.previous);
  const bool of_mixture = sent.draws() && network.mixture_logits;
  const Tensor out = to.or_like(mean);
  const DiscretisedUpdate op{
      .count = numel(shape),
      .from = network.over(shape, type, bins),
      .solver = solver.over(shape, shape, type, predicted_out),
      .sent = sent.over(shape, noise.seed, kOutput),
      .component = Noise{noise.seed, component_noise}.over(shape, kComponent, of_mixture),
      .noise = noise.over(shape, kSender, solver.std.has_value()),
      .out = view_of_out(out, shape),
  };
  return compute(type, op, BFN_KERNEL(discretised_update), out);
}

// The loss, its scale and the saved gradients.
auto loss_new(Given x, const Network& network, Maybe weight, Maybe alpha, bool direct, int64_t n_steps,
              const Draws& draws, const Bins& bins, const LossTarget& target, const Needs& need) {
  const Shape shape = shape_of(x);
  const ScalarType type = network.type_with(x);
  const Reduced to = target.over(x, type);
  const Gradients saved = network.gradients(type, need);
  const DiscretisedLoss op{
      .x = view("x", x, shape),
      .from = network.over(shape, type, bins, direct),
      .weight = view_of_rows("weight", weight, shape, type),
      .alpha = view_of_rows("alpha", alpha, shape, type),
      .n_steps = n_steps,
      .draws = alpha ? draws.over(shape) : bfn::Draws{},
      .gradients = saved.views,
      .to = to.to,
  };
  return compute(type, op, BFN_KERNEL(discretised_loss), to.loss, to.scale, saved.pred_mean, saved.pred_log_std,
                 saved.mixture_logits);
}

BFN_OPERATORS(m) {
  add<&output_std_new>(m, "discretised_output_std");
  add<&expected_value_new>(m, "discretised_expected_value");
  add<&choose_new>(m, "discretised_choose");
  add<&step, 2>(m, "discretised_step");
  add<&loss_new>(m, "discretised_loss");
}

}  // namespace
}  // namespace bfn::bindings
