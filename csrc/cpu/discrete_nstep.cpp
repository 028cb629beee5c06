#include "../ops/discrete.h"

#include <optional>

#include "factorised.h"
#include "loss.h"
#include "row_draws.h"

namespace bfn {
namespace {

// What is stored of every class between two passes over the tiles of a row.
template <class T>
struct NStepScratch {
  RowScratch<T> rows;
  std::vector<T> p, growth, ratio, gradient;
  T normals[kBlock];  // the normals of one tile in one draw

  explicit NStepScratch(int64_t num_classes)
      : rows(num_classes), p(rows.e.size()), growth(p.size()), ratio(p.size()), gradient(p.size()) {}
};

// Computes the sums S and M = 1 + S of the joint receiver (math/discrete.h) over the steps of a tile.
template <class T>
[[gnu::noinline]] void sum_products(int64_t steps, const T* __restrict p, const T* __restrict growth,
                                    const T* __restrict ratio, double* __restrict excess, double* __restrict mixture) {
  if (steps < 1) return;
  for (int64_t j = 0; j < kLanes; ++j) {
    double sum = 0, all = 0;
    for (int64_t s = 0; s < steps; ++s) {
      const int64_t i = s * kLanes + j;
      sum += p[i] * growth[i];
      all += p[i] * ratio[i];
    }
    excess[j] = sum;
    mixture[j] = all;
  }
}

// A draw of the joint receiver for the rows in the lanes.
template <class T>
struct JointDraws {
  T divergence[kLanes], factor[kLanes], level[kLanes];
  int32_t near_one[kLanes], beyond[kLanes];

  // The compiler vectorises these loops only if they are functions of their own.
  [[gnu::noinline]] void take(const double* __restrict excess, const double* __restrict mixture, T weight) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const JointDraw<T> draw(static_cast<T>(excess[j]), static_cast<T>(mixture[j]), weight);
      divergence[j] = draw.divergence;
      factor[j] = draw.factor;
      level[j] = draw.level;
      near_one[j] = draw.near_one;
      beyond[j] = draw.beyond;
    }
  }

  [[gnu::noinline]] void add(int64_t steps, const T* __restrict p, const T* __restrict growth,
                             const T* __restrict ratio, T* __restrict gradient) const {
    for (int64_t s = 0; s < steps; ++s) {
      for (int64_t j = 0; j < kLanes; ++j) {
        const int64_t i = s * kLanes + j;
        gradient[i] += JointDraw<T>(factor[j], level[j], near_one[j]).slope(p[i], {ratio[i], growth[i]});
      }
    }
  }
};

// The rows in the lanes, and the numbers that are the same for all draws.
template <class T>
struct NStepRows {
  const DiscreteNStep& op;
  const Rows rows;
  NStepScratch<T>& scratch;
  int64_t x[kLanes];
  T alpha[kLanes];
  double value[kLanes] = {};
  // `made` points to the normals of this tile in this draw.
  int64_t made_draw = -1, made_first = -1;
  const T* made = nullptr;

  // Returns the normals of a draw. A node of a quadrature is one number for all classes.
  const T* normals(const Tile& tile, int64_t draw) {
    if (draw == made_draw && tile.first == made_first) return made;
    made_draw = draw;
    made_first = tile.first;
    made = scratch.normals;
    if (op.draws.n_samples) {
      const int64_t all = op.to.batch * op.to.per_batch * rows.num_classes;
      made = normal_tile(op.draws.noise, tile, scratch.normals, static_cast<uint32_t>(draw), all);
    } else {
      std::fill_n(scratch.normals, tile.numbers(), static_cast<T>(op.draws.nodes[draw]));
    }
    return made;
  }
  T weight(int64_t draw) const { return weight_of<T>(op.draws, draw); }

  NStepRows(const DiscreteNStep& nstep, const Rows& which, const int64_t (&classes)[kLanes], NStepScratch<T>& kept)
      : op(nstep), rows(which), scratch(kept) {
    std::copy_n(classes, kLanes, x);
    load_lanes(op.alpha, rows, alpha);
    const RowSums<T> sums(rows, nullptr, scratch.rows, logits_of<T>(op.logits));
    for_tiles(rows, [&](const Tile& tile) {
      T by[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) {
        by[j] = scratch.rows.sums_of(tile).scale[j] * static_cast<T>(1 / sums.rest[j]);
      }
      const T* __restrict e = scratch.rows.e_of(tile);
      T* __restrict p = scratch.p.data() + tile.first, * __restrict gradient = scratch.gradient.data() + tile.first;
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { p[i] = e[i] * by[j]; });
      std::fill_n(gradient, tile.numbers(), T(0));
    });
  }

  // d_k = y_k - y_x of a draw.
  struct Differences {
    T spread[kLanes], towards[kLanes], eps_x[kLanes] = {};

    T at(int64_t j, T eps) const { return spread[j] * (eps - eps_x[j]) - towards[j]; }
  };
  Differences differences(int64_t draw) {
    Differences d;
    const T classes = static_cast<T>(rows.num_classes);
    for (int64_t j = 0; j < kLanes; ++j) {
      // a quadrature needs K = 2, for which y_x - y_o ~ N(2 alpha, 4 alpha)
      d.spread[j] = op.draws.n_samples ? sqrt(classes * alpha[j]) : -2 * sqrt(alpha[j]);
      d.towards[j] = classes * alpha[j];
    }
    if (!op.draws.n_samples) return d;
    for_tiles(rows, [&](const Tile& tile) {
      where_met(tile, x, [&](int64_t j, int64_t i) { set_lanes(rows, j, d.eps_x, normals(tile, draw)[i]); });
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
      where_met(tile, x, [&](int64_t, int64_t i) {
        growth[i] = 0;
        ratio[i] = 1;
      });
      sum_products(tile.steps, scratch.p.data() + tile.first, growth, ratio, of_tile[0], of_tile[1]);
    });
    JointDraws<T> joint;
    joint.take(sums[0], sums[1], weight(draw));
    for_tiles(rows, [&](const Tile& tile) {
      const int64_t at = tile.first;
      joint.add(tile.steps, &scratch.p[at], &scratch.growth[at], &scratch.ratio[at], &scratch.gradient[at]);
    });
    if (std::any_of(joint.beyond, joint.beyond + kLanes, [](int32_t beyond) { return beyond != 0; })) {
      joint_draw_beyond(draw, d, joint.beyond, joint.divergence);
    }
    for (int64_t j = 0; j < kLanes; ++j) value[j] += static_cast<double>(weight(draw)) * joint.divergence[j];
  }

  // Does the same if M is too small or too large for float, by the log-odds against x before and after the message. The
  // largest logit is subtracted first, so that large logits do not absorb the digits of the message.
  void joint_draw_beyond(int64_t draw, const Differences& d, const int32_t (&beyond)[kLanes], T (&divergence)[kLanes]) {
    const auto logits = logits_of<T>(op.logits);
    const RowSums<T> before(rows, x, scratch.rows, logits);
    const RowSums<T> after(rows, x, scratch.rows, [&](const Tile& tile, T* shifted) {
      T buffer[kBlock];
      const T *z = logits(tile, buffer), *eps = normals(tile, draw);
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { shifted[i] = (z[i] - before.top[j]) + d.at(j, eps[i]); });
      where_met(tile, x, [&](int64_t j, int64_t i) { shifted[i] = z[i] - before.top[j]; });
      return shifted;
    });
    for (int64_t j = 0; j < kLanes; ++j) {
      const T z_x = before.z_x[j] - before.top[j], rest = log(static_cast<T>(before.rest[j]));
      const T moved = log(static_cast<T>(after.rest[j])) + after.top[j];
      if (beyond[j]) divergence[j] = softplus_fall(rest - z_x, moved - z_x, moved - rest);
    }
    for_tiles(rows, [&](const Tile& tile) {
      const T *p = scratch.p.data() + tile.first, *e = scratch.rows.e_of(tile);
      const T* scale = scratch.rows.sums_of(tile).scale;
      T* gradient = scratch.gradient.data() + tile.first;
      const ClassAt at(tile, x);
      for_numbers(tile, [&](int64_t i, int32_t k, auto j) {
        const T now = k == at.at[j] ? after.e_x[j] : e[i] * scale[j];
        if (beyond[j]) gradient[i] += weight(draw) * (p[i] - now / static_cast<T>(after.total(j)));
      });
    });
  }

  // Adds one draw of the factorised receiver to `value`, and its derivatives by p to the gradient. `ratio` holds 1 - p.
  void factorised_draw(int64_t draw, FarTerms<T>* far) {
    T r[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) r[j] = sqrt(static_cast<T>(rows.num_classes) * alpha[j]);
    const T by = weight(draw);
    double sums[1][kLanes];
    sum_rows(rows, sums, [&](const Tile& tile, double (&of_tile)[1][kLanes]) {
      const T* __restrict eps = normals(tile, draw);
      const T* __restrict p = scratch.p.data() + tile.first, * __restrict rest = scratch.ratio.data() + tile.first;
      T* __restrict terms = scratch.growth.data() + tile.first, * __restrict gradient =
                                                                    scratch.gradient.data() + tile.first;
      factorised_steps(tile.steps, StepOf(tile, x).at, p, rest, eps, r, by, terms, gradient);
      if (far) far->take(tile, eps, r, by, terms, gradient);
      pad_tile(tile, terms, T(0));
      sum_steps<false>(1, tile.steps, terms, of_tile[0]);
    });
    for (int64_t j = 0; j < kLanes; ++j) value[j] += static_cast<double>(by) * sums[0][j];
  }

  // Writes 1 - p to `ratio`. For the likeliest class this difference would cancel, so it is the sum of the others.
  void set_rests(const int64_t (&likeliest)[kLanes]) {
    const RowSums<T> sums(rows, likeliest, scratch.rows, logits_of<T>(op.logits));
    for_tiles(rows, [&](const Tile& tile) {
      const T* __restrict p = scratch.p.data() + tile.first;
      T* __restrict rest = scratch.ratio.data() + tile.first;
      for_numbers(tile, [&](int64_t i, int32_t, auto) { rest[i] = 1 - p[i]; });
      where_met(tile, likeliest, [&](int64_t j, int64_t i) { rest[i] = static_cast<T>(sums.rest[j] / sums.total(j)); });
    });
  }

  // Turns the derivatives g by p into derivatives by the logits, p_k (g_k - mean of g). For the likeliest class this
  // difference cancels, so its derivative is a sum of differences instead.
  void through_softmax(const int64_t (&likeliest)[kLanes]) {
    T largest[kLanes] = {};
    for_tiles(rows, [&](const Tile& tile) {
      const T* gradient = scratch.gradient.data() + tile.first;
      where_met(tile, likeliest, [&](int64_t j, int64_t i) { set_lanes(rows, j, largest, gradient[i]); });
    });
    double sums[2][kLanes];
    sum_rows(rows, sums, [&](const Tile& tile, double (&of_tile)[2][kLanes]) {
      const T* __restrict p = scratch.p.data() + tile.first, * __restrict g = scratch.gradient.data() + tile.first;
      T* __restrict difference = scratch.growth.data() + tile.first;
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { difference[i] = largest[j] - g[i]; });
      sum_products(tile.steps, p, g, difference, of_tile[0], of_tile[1]);
    });
    const auto& [mean, away] = sums;
    for_tiles(rows, [&](const Tile& tile) {
      const T* __restrict p = scratch.p.data() + tile.first;
      T* __restrict g = scratch.gradient.data() + tile.first;
      T average[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) average[j] = static_cast<T>(mean[j]);
      for_numbers(tile, [&](int64_t i, int32_t, auto j) { g[i] = p[i] * (g[i] - average[j]); });
      where_met(tile, likeliest, [&](int64_t j, int64_t i) { g[i] = p[i] * static_cast<T>(away[j]); });
    });
  }

  // Writes the losses to `value`, and their gradients by the logits to the scratch.
  void run() {
    const int64_t draws = op.draws.count();
    if (op.receiver == Receiver::kJoint) {
      for (int64_t draw = 0; draw < draws; ++draw) joint_draw(draw);
      return;
    }
    int64_t likeliest[kLanes];
    find_modes<T>(rows, logits_of<T>(op.logits), likeliest);
    set_rests(likeliest);
    const bool any_far = has_far_terms(rows, x, scratch.p.data());
    std::optional<FarTerms<T>> far;
    if (any_far) far.emplace(rows, x, likeliest, scratch.rows, logits_of<T>(op.logits));
    for (int64_t draw = 0; draw < draws; ++draw) factorised_draw(draw, far ? &*far : nullptr);
    through_softmax(likeliest);
    if (far) far->add(scratch.rows, scratch.p.data(), scratch.gradient.data());
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
      mask_lanes(rows, mask ? mask + rows.first - start : nullptr, costs);
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
          const T by = gradient[i] * steps[j];
          out[i] = steps[j] > T(0) ? by : T(0);
        });
        store_tile(op.grad_logits, tile, out);
      });
    });
  });
  bad.refuse("x", count);
}

BFN_INSTANTIATE(discrete_nstep, const DiscreteNStep&);

}  // namespace bfn
