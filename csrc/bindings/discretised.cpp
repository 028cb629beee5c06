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

// The gradients that the forward pass saves. Each has the shape of the tensor that it belongs to.
struct Gradients {
  Output by_mean, by_std, by_logits;
  NetworkGradients views() const { return {by_mean.view, by_std.view, by_logits.view}; }
};

// The network's output. If `direct`, pred_mean and pred_log_std are the mean and the std of the output normal. If the
// output is a mixture, both and the logits have a last dimension for the components. Without pred_log_std, pred_mean
// has both predictions in a last dimension of size two.
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
    check(components >= 1 && components <= kMaxComponents, "mixture_logits", " has no components or too many");
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

  Gradients gradients(ScalarType type, bool need_mean, bool need_std, bool need_logits) const {
    const auto like = [&](Maybe x, bool needed) {
      return output(pred_mean, x ? shape_of(*x) : Shape{}, type, needed && x);
    };
    Gradients made{like(pred_mean, need_mean), like(pred_log_std, need_std), like(mixture_logits, need_logits)};
    if (!pred_log_std && need_mean) {
      const Shape each = without_last(shape_of(pred_mean));
      made.by_std.view = view_of_half("gradient", made.by_mean.tensor, each, 1);
      made.by_mean.view = view_of_half("gradient", made.by_mean.tensor, each, 0);
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

auto expected_value_new(Given mean, Given std, Maybe mixture_logits, int64_t num_bins, bool clip, bool need_mean,
                        bool need_std, bool need_logits) {
  const Network network{mean, std, mixture_logits};
  const Output out = network.one_each();
  const Shape shape = shape_of(out.tensor);
  const ScalarType type = network.type_with();
  const Gradients saved = network.gradients(type, need_mean, need_std, need_logits);
  const DiscretisedExpectedValue op{
      .count = numel(shape),
      .from = network.over(shape, type, {num_bins, clip}, true),
      .out = out.view,
      .gradients = saved.views(),
  };
  return compute(type, op, BFN_KERNEL(expected_value), out.tensor, saved.by_mean.tensor, saved.by_std.tensor,
                 saved.by_logits.tensor);
}

auto choose_new(Given mean, Given std, Maybe mixture_logits, int64_t num_bins, int64_t choice, const Noise& noise,
                Maybe component_noise) {
  check(choice != static_cast<int64_t>(Choice::kMean), "choice", " must not be the mean; use expected_value");
  const Network network{mean, std, mixture_logits};
  const Output out = network.one_each();
  const Shape shape = shape_of(out.tensor);
  const ScalarType type = network.type_with();
  const Sent sent{.choice = choice, .draw_noise = noise.noise};
  const Choose op{
      .count = numel(shape),
      .from = network.over(shape, type, {num_bins, true}, true),
      .sent = sent.over(shape, noise.seed, kOutput, shape),
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
      .sent = sent.over(shape, noise.seed, kOutput, shape),
      .component = Noise{noise.seed, component_noise}.over(shape, kComponent, of_mixture),
      .noise = noise.over(shape, kSender, solver.std.has_value()),
      .out = view_of_out(out, shape),
  };
  return compute(type, op, BFN_KERNEL(discretised_update), out);
}

// The loss, its scale and the saved gradients.
auto loss_new(Given x, const Network& network, Maybe weight, Maybe alpha, bool direct, int64_t n_steps,
              const Draws& draws, const Bins& bins, const LossTarget& target, bool need_mean, bool need_std,
              bool need_logits) {
  const Shape shape = shape_of(x);
  const ScalarType type = network.type_with(x);
  const Reduced to = target.over(x, shape, type);
  const Gradients saved = network.gradients(type, need_mean, need_std, need_logits);
  const DiscretisedLoss op{
      .x = view("x", x, shape),
      .from = network.over(shape, type, bins, direct),
      .weight = view_of_rows("weight", weight, shape, type),
      .alpha = view_of_rows("alpha", alpha, shape, type),
      .n_steps = n_steps,
      .draws = alpha ? draws.over(shape) : bfn::Draws{},
      .gradients = saved.views(),
      .to = to.to,
  };
  return compute(type, op, BFN_KERNEL(discretised_loss), to.loss, to.scale, saved.by_mean.tensor, saved.by_std.tensor,
                 saved.by_logits.tensor);
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
