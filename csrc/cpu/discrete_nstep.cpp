#include "../ops/discrete.h"

#include <optional>

#include "factorised.h"
#include "loss.h"
#include "row_draws.h"

namespace bfn {
namespace {

// What is stored of every class between two passes over the tiles of a row. The factorised receiver stores its terms in
// `growth` and 1 - p in `ratio`.
template <class T>
struct NStepScratch {
  RowScratch<T> rows;
  std::vector<T> p, growth, ratio, gradient;
  T normals[kBlock];  // of one tile in one draw

  explicit NStepScratch(int64_t num_classes)
      : rows(num_classes), p(rows.e.size()), growth(p.size()), ratio(p.size()), gradient(p.size()) {}
};

// Sums p a and p b over the steps of a tile, in lanes.
template <class T>
[[gnu::noinline]] void sum_products(int64_t steps, const T* __restrict p, const T* __restrict a, const T* __restrict b,
                                    double* __restrict sum_a, double* __restrict sum_b) {
  if (steps < 1) return;
  for (int64_t j = 0; j < kLanes; ++j) {
    double pa = 0, pb = 0;
    for (int64_t s = 0; s < steps; ++s) {
      const int64_t i = s * kLanes + j;
      pa += p[i] * a[i];
      pb += p[i] * b[i];
    }
    sum_a[j] = pa;
    sum_b[j] = pb;
  }
}

// A draw of the joint receiver (JointDraw), in lanes.
template <class T>
struct JointDraws {
  T divergence[kLanes], factor[kLanes], level[kLanes];
  int32_t near_one[kLanes], out_of_range[kLanes];

  // The compiler vectorises these loops only if they are functions of their own. `sum` and `mixture` are S and M.
  [[gnu::noinline]] void compute(const double* __restrict sum, const double* __restrict mixture, T weight) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const JointDraw<T> draw(static_cast<T>(sum[j]), static_cast<T>(mixture[j]), weight);
      divergence[j] = draw.divergence;
      factor[j] = draw.factor;
      level[j] = draw.level;
      near_one[j] = draw.near_one;
      out_of_range[j] = draw.out_of_range;
    }
  }

  // Adds the draw's slopes to the gradient. `growth` is ratio - 1.
  [[gnu::noinline]] void add_slopes(int64_t steps, const T* __restrict p, const T* __restrict growth,
                                    const T* __restrict ratio, T* __restrict gradient) const {
    for (int64_t s = 0; s < steps; ++s) {
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t i = s * kLanes + j;
        gradient[i] += JointDraw<T>(factor[j], level[j], near_one[j]).slope(p[i], {ratio[i], growth[i]});
      }
    }
  }
};

// The losses L_n of some rows, and the numbers that all draws share.
template <class T>
struct NStepRows {
  const DiscreteNStep& op;
  const Rows rows;
  NStepScratch<T>& scratch;
  int64_t x[kLanes];
  T alpha[kLanes];
  double value[kLanes] = {};
  // The draw and the first class of the tile whose normals were made last.
  int64_t cached_draw = -1, cached_first = -1;
  const T* cached_normals = nullptr;

  // Returns the normals of a tile in a draw. A node of a quadrature is one number for all classes.
  const T* normals(const Tile& tile, int64_t draw) {
    if (draw == cached_draw && tile.first == cached_first) return cached_normals;
    cached_draw = draw;
    cached_first = tile.first;
    cached_normals = scratch.normals;
    if (op.draws.n_samples) {
      const int64_t all = op.to.batch * op.to.per_batch * rows.num_classes;
      cached_normals = normal_tile(op.draws.noise, tile, scratch.normals, static_cast<uint32_t>(draw), all);
    } else {
      std::fill_n(scratch.normals, tile.numbers(), static_cast<T>(op.draws.nodes[draw]));
    }
    return cached_normals;
  }
  T weight(int64_t draw) const { return weight_of<T>(op.draws, draw); }

  NStepRows(const DiscreteNStep& nstep, const Rows& which, const int64_t (&classes)[kLanes], NStepScratch<T>& of_thread)
      : op(nstep), rows(which), scratch(of_thread) {
    std::copy_n(classes, kLanes, x);
    load_lanes(op.alpha, rows, alpha);
    const RowSums<T> sums(rows, nullptr, scratch.rows, logits_of<T>(op.logits), {&op.logits});
    for_tiles(rows, [&](const Tile& tile) {
      T factor[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) {
        factor[j] = scratch.rows.sums_of(tile).scale[j] * static_cast<T>(1 / sums.rest[j]);
      }
      const T* __restrict e = scratch.rows.e_of(tile);
      T* __restrict p = scratch.p.data() + tile.first, * __restrict gradient = scratch.gradient.data() + tile.first;
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { p[i] = e[i] * factor[j]; });
      std::fill_n(gradient, tile.numbers(), T(0));
    });
  }

  // Computes the differences d_k = y_k - y_x of a draw: their mean is -shift, and `spread` multiplies the normals.
  struct Differences {
    T spread[kLanes], shift[kLanes], eps_x[kLanes] = {};

    T at(int64_t j, T eps) const { return spread[j] * (eps - eps_x[j]) - shift[j]; }
  };
  Differences differences(int64_t draw) {
    Differences d;
    const T classes = static_cast<T>(rows.num_classes);
    for (int64_t j = 0; j < kLanes; ++j) {
      // A quadrature requires K = 2, for which y_x - y_o ~ N(2 alpha, 4 alpha). eps_x is then 0.
      d.spread[j] = op.draws.n_samples ? sqrt(classes * alpha[j]) : -2 * sqrt(alpha[j]);
      d.shift[j] = classes * alpha[j];
    }
    if (!op.draws.n_samples) return d;
    for_tiles(rows, [&](const Tile& tile) {
      where_in_tile(tile, x, [&](int64_t j, int64_t i) { set_lanes(rows, j, d.eps_x, normals(tile, draw)[i]); });
    });
    return d;
  }

  // Adds one draw of the joint receiver (189, 190) to `value`, and weight (softmax(z) - softmax(z + y)) to the
  // gradient.
  void joint_draw(int64_t draw) {
    const Differences d = differences(draw);
    double sums[2][kLanes];
    sum_rows(rows, sums, [&](const Tile& tile, double (&of_tile)[2][kLanes]) {
      const T* __restrict eps = normals(tile, draw);
      T* __restrict growth = scratch.growth.data() + tile.first, * __restrict ratio = scratch.ratio.data() + tile.first;
      for_numbers(tile, [&](int64_t i, int32_t, auto j) {
        const ExpAndExpm1<T> e = exp_and_expm1(d.at(j, eps[i]));
        growth[i] = e.expm1;
        ratio[i] = e.exp;
      });
      where_in_tile(tile, x, [&](int64_t, int64_t i) {
        growth[i] = 0;
        ratio[i] = 1;
      });
      sum_products(tile.steps, scratch.p.data() + tile.first, growth, ratio, of_tile[0], of_tile[1]);
    });
    JointDraws<T> joint;
    joint.compute(sums[0], sums[1], weight(draw));
    for_tiles(rows, [&](const Tile& tile) {
      const int64_t at = tile.first;
      joint.add_slopes(tile.steps, &scratch.p[at], &scratch.growth[at], &scratch.ratio[at], &scratch.gradient[at]);
    });
    if (std::any_of(joint.out_of_range, joint.out_of_range + kLanes,
                    [](int32_t out_of_range) { return out_of_range != 0; })) {
      joint_draw_out_of_range(draw, d, joint.out_of_range, joint.divergence);
    }
    for (int64_t j = 0; j < kLanes; ++j) value[j] += static_cast<double>(weight(draw)) * joint.divergence[j];
  }

  // Computes the divergence and the gradient of the rows that are out of range (JointDraw), from the log-odds against x
  // before and after the message. It subtracts the largest logit first, so that large logits do not absorb the digits
  // of the message.
  void joint_draw_out_of_range(int64_t draw, const Differences& d, const int32_t (&out_of_range)[kLanes],
                               T (&divergence)[kLanes]) {
    const auto logits = logits_of<T>(op.logits);
    const RowSums<T> before(rows, x, scratch.rows, logits);
    const RowSums<T> after(rows, x, scratch.rows, [&](const Tile& tile, T* shifted) {
      T buffer[kBlock];
      const T *z = logits(tile, buffer), *eps = normals(tile, draw);
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { shifted[i] = (z[i] - before.top[j]) + d.at(j, eps[i]); });
      where_in_tile(tile, x, [&](int64_t j, int64_t i) { shifted[i] = z[i] - before.top[j]; });
      return shifted;
    });
    for (int64_t j = 0; j < kLanes; ++j) {
      const T z_x = before.z_x[j] - before.top[j], rest = log(static_cast<T>(before.rest[j]));
      const T rest_after = log(static_cast<T>(after.rest[j])) + after.top[j];
      if (out_of_range[j]) divergence[j] = softplus_fall(rest - z_x, rest_after - z_x, rest_after - rest);
    }
    for_tiles(rows, [&](const Tile& tile) {
      const T *p = scratch.p.data() + tile.first, *e = scratch.rows.e_of(tile);
      const T* scale = scratch.rows.sums_of(tile).scale;
      T* gradient = scratch.gradient.data() + tile.first;
      const ClassInTile at(tile, x);
      for_numbers(tile, [&](int64_t i, int32_t k, auto j) {
        const T e_after = k == at.at[j] ? after.e_x[j] : e[i] * scale[j];
        if (out_of_range[j]) gradient[i] += weight(draw) * (p[i] - e_after / static_cast<T>(after.total(j)));
      });
    });
  }

  // Adds one draw of the factorised receiver to `value`, and its derivatives by p to the gradient.
  void factorised_draw(int64_t draw, LogSpaceTerms<T>* log_space) {
    T r[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) r[j] = sqrt(static_cast<T>(rows.num_classes) * alpha[j]);
    const T draw_weight = weight(draw);
    double sums[1][kLanes];
    sum_rows(rows, sums, [&](const Tile& tile, double (&of_tile)[1][kLanes]) {
      const T* __restrict eps = normals(tile, draw);
      const T* __restrict p = scratch.p.data() + tile.first, * __restrict rest = scratch.ratio.data() + tile.first;
      T* __restrict terms = scratch.growth.data() + tile.first, * __restrict gradient =
                                                                    scratch.gradient.data() + tile.first;
      factorised_steps(tile.steps, StepOfClass(tile, x).at, p, rest, eps, r, draw_weight, terms, gradient);
      if (log_space) log_space->replace(tile, eps, r, draw_weight, terms, gradient);
      pad_tile(tile, terms, T(0));
      sum_steps<false>(1, tile.steps, terms, of_tile[0]);
    });
    for (int64_t j = 0; j < kLanes; ++j) value[j] += static_cast<double>(draw_weight) * sums[0][j];
  }

  // Writes 1 - p to `ratio`. For the likeliest class this difference would cancel, so it is the sum of the other p.
  void set_rests(const int64_t (&likeliest)[kLanes]) {
    const RowSums<T> sums(rows, likeliest, scratch.rows, logits_of<T>(op.logits));
    for_tiles(rows, [&](const Tile& tile) {
      const T* __restrict p = scratch.p.data() + tile.first;
      T* __restrict rest = scratch.ratio.data() + tile.first;
      for_numbers(tile, [&](int64_t i, int32_t, auto) { rest[i] = 1 - p[i]; });
      where_in_tile(tile, likeliest,
                    [&](int64_t j, int64_t i) { rest[i] = static_cast<T>(sums.rest[j] / sums.total(j)); });
    });
  }

  // Turns the derivatives g by p into derivatives by the logits, p_k (g_k - mean of g). For the likeliest class this
  // difference would cancel, so its derivative is a sum of differences.
  void through_softmax(const int64_t (&likeliest)[kLanes]) {
    T largest[kLanes] = {};
    for_tiles(rows, [&](const Tile& tile) {
      const T* gradient = scratch.gradient.data() + tile.first;
      where_in_tile(tile, likeliest, [&](int64_t j, int64_t i) { set_lanes(rows, j, largest, gradient[i]); });
    });
    double sums[2][kLanes];
    sum_rows(rows, sums, [&](const Tile& tile, double (&of_tile)[2][kLanes]) {
      const T* __restrict p = scratch.p.data() + tile.first, * __restrict g = scratch.gradient.data() + tile.first;
      T* __restrict difference = scratch.growth.data() + tile.first;
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { difference[i] = largest[j] - g[i]; });
      sum_products(tile.steps, p, g, difference, of_tile[0], of_tile[1]);
    });
    const auto& [mean, difference_sum] = sums;
    for_tiles(rows, [&](const Tile& tile) {
      const T* __restrict p = scratch.p.data() + tile.first;
      T* __restrict g = scratch.gradient.data() + tile.first;
      T average[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) average[j] = static_cast<T>(mean[j]);
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { g[i] = p[i] * (g[i] - average[j]); });
      where_in_tile(tile, likeliest, [&](int64_t j, int64_t i) { g[i] = p[i] * static_cast<T>(difference_sum[j]); });
    });
  }

  // Computes the losses divided by n into `value`, and their gradients by the logits into the scratch.
  void run() {
    const int64_t draws = op.draws.count();
    if (op.receiver == Receiver::kJoint) {
      for (int64_t draw = 0; draw < draws; ++draw) joint_draw(draw);
      return;
    }
    int64_t likeliest[kLanes];
    find_modes<T>(rows, logits_of<T>(op.logits), likeliest);
    set_rests(likeliest);
    const bool any_tiny = has_tiny_shares(rows, x, scratch.p.data());
    std::optional<LogSpaceTerms<T>> log_space;
    if (any_tiny) log_space.emplace(rows, x, likeliest, scratch.rows, logits_of<T>(op.logits));
    for (int64_t draw = 0; draw < draws; ++draw) factorised_draw(draw, log_space ? &*log_space : nullptr);
    through_softmax(likeliest);
    if (log_space) log_space->add(scratch.rows, scratch.p.data(), scratch.gradient.data());
  }
};

}  // namespace

template <class T>
void discrete_nstep(const DiscreteNStep& op) {
  BadClass bad;
  const int64_t count = op.num_classes;
  const auto make = [&] { return NStepScratch<T>(count); };
  reduce_losses<T>(op.to, count, make, [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, auto& scratch) {
    for_single_rows(start, length, count, [&](const Rows& rows) {
      int64_t x[kLanes];
      uint8_t costs[kLanes];
      mask_lanes(rows, mask, start, costs);
      load_classes(op.x, rows, costs, x, &bad);
      NStepRows<T> nstep(op, rows, x, scratch);
      nstep.run();
      T steps[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) steps[j] = x[j] < 0 ? T(0) : static_cast<T>(op.n_steps);
      for (int64_t j = 0; j < rows.count; ++j) {
        const T cost = static_cast<T>(static_cast<double>(op.n_steps) * nstep.value[j]);
        loss[rows.first - start + j] = x[j] < 0 ? kNaN<T> : cost;
      }
      if (!op.grad_logits) return;
      for_tiles(rows, [&](const Tile& tile) {
        const T* __restrict gradient = scratch.gradient.data() + tile.first;
        T out[kBlock];
        for_numbers(tile, [&](int64_t i, int32_t, auto j) {
          const T scaled = gradient[i] * steps[j];
          out[i] = steps[j] > T(0) ? scaled : T(0);
        });
        store_tile(op.grad_logits, tile, out);
      });
    });
  });
  bad.throw_if_found("x", count);
}

BFN_INSTANTIATE(discrete_nstep, const DiscreteNStep&);

}  // namespace bfn
