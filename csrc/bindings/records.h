// The records of bfn_kernels/records.py: arguments that belong together, with the same names in the same order. torch
// passes the fields of a record one by one, and operators.h puts them together again. `over` turns a record into the
// struct that the ops take.
#pragma once

#include "../ops/discrete.h"
#include "tensors.h"

namespace bfn::bindings {

struct Noise {
  MaybeTensor seed, noise;
  auto fields() const { return std::tie(seed, noise); }

  bfn::Noise over(const Shape& shape, Stream stream, bool used = true) const {
    return used ? noise_of(seed, noise, shape, stream) : bfn::Noise{};
  }
};

struct Draws {
  Doubles nodes, node_weights;
  int64_t n_samples;
  MaybeTensor seed, noise;
  auto fields() const { return std::tie(nodes, node_weights, n_samples, seed, noise); }

  // Explicit noise has the shape of the data, with a first dimension for the draws.
  bfn::Draws over(Shape shape) const {
    const size_t count = nodes ? nodes->size() : 0;
    const bool as_many = count == (node_weights ? node_weights->size() : 0);
    check(as_many && (count > 0 ? n_samples == 0 : n_samples >= 0), "nodes and node_weights",
          " must have the same length, and be empty if n_samples is not 0");
    shape.insert(shape.begin(), n_samples);
    return {
        .n_samples = n_samples,
        .num_nodes = static_cast<int64_t>(count),
        .nodes = count ? nodes->data() : nullptr,
        .node_weights = count ? node_weights->data() : nullptr,
        .noise = n_samples > 0 ? noise_of(seed, noise, shape, kMonteCarlo) : bfn::Noise{},
    };
  }
};

struct Solver {
  MaybeTensor keep;
  Tensor take;
  MaybeTensor std, previous, extrapolation;
  auto fields() const { return std::tie(keep, take, std, previous, extrapolation); }

  // Row scalars broadcast to the shape `rows`. The state has the shape `shape`.
  bfn::Solver over(const Shape& rows, const Shape& shape, ScalarType type, Maybe predicted_out) const {
    check(previous.has_value() == extrapolation.has_value(), "previous and extrapolation", " must be given together");
    return {
        .keep = view_of_rows("keep", keep, rows, type),
        .take = view_of_rows("take", take, rows, type),
        .std = view_of_rows("std", std, rows, type),
        .previous = view("previous", previous, shape),
        .extrapolation = view_of_rows("extrapolation", extrapolation, rows, type),
        .prediction = view_of_out(predicted_out, shape),
        .predicts = previous || predicted_out,
    };
  }
};

struct Guidance {
  MaybeTensor logit_scale, unconditional, unconditional_scale;
  auto fields() const { return std::tie(logit_scale, unconditional, unconditional_scale); }

  bfn::Guidance over(const Shape& rows, const Shape& shape, ScalarType type) const {
    check(unconditional.has_value() == unconditional_scale.has_value(), "unconditional and unconditional_scale",
          " must be given together");
    return {
        .logit_scale = view_of_rows("logit_scale", logit_scale, rows, type),
        .unconditional = view("unconditional", unconditional, shape),
        .unconditional_scale = view_of_rows("unconditional_scale", unconditional_scale, rows, type),
    };
  }
};

struct ClassLogits {
  Tensor logits;
  MaybeTensor class_mask;
  auto fields() const { return std::tie(logits, class_mask); }

  bfn::ClassLogits over(const Shape& shape) const {
    return {view("logits", logits, shape), view("class_mask", class_mask, shape)};
  }
};

struct Score {
  MaybeTensor score, score_clip;
  auto fields() const { return std::tie(score, score_clip); }

  bfn::Score over(const Shape& rows, const Shape& shape, ScalarType type) const {
    return {
        .values = view("score", score, shape),
        .clip = view_of_rows("score_clip", score_clip, rows, type),
    };
  }
};

struct Sent {
  int64_t choice;
  MaybeTensor known, known_mask, draw_noise;
  auto fields() const { return std::tie(choice, known, known_mask, draw_noise); }

  bool draws() const { return choice == static_cast<int64_t>(Choice::kSample); }
  bfn::Sent over(const Shape& shape, Maybe seed, Stream stream, const Shape& known_shape) const {
    return {
        .choice = code("choice", choice, Choice::kMean),
        .known = view("known", known, known_shape),
        .known_mask = view("known_mask", known_mask, shape),
        .draw = draws() ? noise_of(seed, draw_noise, shape, stream) : bfn::Noise{},
    };
  }
};

// The tensors that a reduction writes: the loss and its scale, and their views.
struct Reduced {
  Tensor loss, scale;
  MaybeTensor workspace;
  bfn::LossTarget to;
};

struct LossTarget {
  MaybeTensor mask;
  int64_t reduction;
  auto fields() const { return std::tie(mask, reduction); }

  // `shape` is the shape of the losses, and `name` the name of x in errors.
  Reduced over(Given x, const Shape& shape, ScalarType type, const char* name = "x") const {
    check(!shape.empty(), name, " must have a batch dimension");
    const Reduction by = code("reduction", reduction, Reduction::kMean);
    const int64_t batch = shape[0], per_batch = numel(Shape(shape.begin() + 1, shape.end()));
    const Shape out = by == Reduction::kNone ? shape : by == Reduction::kBatch ? Shape{batch} : Shape{};
    const Output loss = output(x, out, type), scale = output(x, {}, type);
    Reduced made{.loss = loss.tensor, .scale = scale.tensor};
    made.to = {
        .reduction = by,
        .batch = batch,
        .per_batch = per_batch,
        .mask = view("mask", mask, shape),
        .loss = loss.view,
        .scale = scale.view,
    };
    if (const int64_t bytes = loss_workspace(made.to)) {
      made.workspace = new_tensor(x, {bytes}, ScalarType::Byte);
      made.to.workspace = made.workspace->mutable_data_ptr();
    }
    return made;
  }
};

// Multiplies the gradient of a reduced loss by the loss's scale.
Tensor scaled(Given grad, Maybe scale);

}  // namespace bfn::bindings
