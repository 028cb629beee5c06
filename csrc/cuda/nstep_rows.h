// The n-step loss of a row of classes (189, 190), and its gradient.
#pragma once

#include "../ops/discrete.h"
#include "classes.h"
#include "nodes.h"

namespace bfn {

template <class A, class Team, int kSlots>
class NStepRow {
 public:
  using T = typename A::Compute;

  __device__ NStepRow(const Team& team, const DiscreteNStep& op, const Nodes<T>& nodes, int64_t seed, int64_t row,
                      int64_t x, bool on)
      : team_(team),
        op_(op),
        nodes_(nodes),
        count_(static_cast<int>(op.num_classes)),
        z_(team, count_, Logits<A>(op.logits, row, count_)) {
    seed_ = seed;
    row_ = row;
    x_ = static_cast<int>(x);
    on_ = on;
  }

  // Returns the loss. If the row costs nothing, a gradient of 0 is written.
  __device__ T operator()() {
    clear();
    T value = 0;
    if (on_) {
      alpha_ = read<T>(op_.alpha, row_);
      const auto total = z_.total();
      top_ = total.top;
      inverse_ = T(1) / total.sum;
      value = op_.receiver == Receiver::kFactorised ? factorised() : joint();
    }
    scale(static_cast<T>(op_.n_steps));
    return static_cast<T>(op_.n_steps) * value;
  }

 private:
  Team team_;
  const DiscreteNStep& op_;
  const Nodes<T>& nodes_;
  int count_;
  ClassRow<A, Team, kSlots> z_;
  int64_t seed_, row_;
  int x_;
  bool on_;
  T alpha_, top_, inverse_;
  Held<T, kSlots> by_, eps_;  // the gradient; the normals of a draw

  __device__ T* grad_logits() const { return static_cast<T*>(op_.grad_logits.data) + row_ * count_; }
  __device__ T p(T z) const { return exp_difference(z, top_) * inverse_; }

  __device__ void clear() {
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
#pragma unroll
      for (int j = 0; j < 4; ++j) set(i, j, first + j, T(0));
    });
  }
  __device__ void set(int i, int j, int k, T value) {
    if constexpr (kSlots > 0) {
      by_.each[i][j] = value;
    } else if (k < count_ && op_.grad_logits) {
      grad_logits()[k] = value;
    }
  }
  __device__ T get(int i, int j, int k) const {
    if constexpr (kSlots > 0) return by_.each[i][j];
    return op_.grad_logits ? grad_logits()[k] : T(0);
  }
  __device__ void scale(T by) {
    if (!op_.grad_logits) return;
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (first + j < count_) grad_logits()[first + j] = by * get(i, j, first + j);
      }
    });
  }

  __device__ auto normals_of(int draw) const {
    return [this, draw](int first, T(&eps)[4]) {
      const int64_t all = op_.to.batch * op_.to.per_batch * count_;
      class_normals(op_.draws.noise, seed_, row_, count_, first, static_cast<uint32_t>(draw), all, eps);
    };
  }
  // Calls f(i, j, k, z, eps) for the classes of this thread.
  template <class F>
  __device__ void each_with_normals(int draw, F&& f) {
    const auto make = normals_of(draw);
    z_.each([&](int i, int j, int k, T z) {
      if (j == 0) eps_.get(i, k, make);
      f(i, j, k, z, eps_.each[i][j]);
    });
  }
  template <class F>
  __device__ T sum_with_normals(int draw, F&& f) {
    Sum<T, kSlots> sum = 0;
    each_with_normals(draw, [&](int i, int j, int k, T z, T eps) { sum += f(i, j, k, z, eps); });
    return static_cast<T>(team_.reduce(sum, Sum<T, kSlots>(0), Add()));
  }

  __device__ T joint() {
    // NaN if the largest logit is infinite, since p is NaN then
    const T before = z_.log_odds_against(x_, z_.logit(x_)) + (top_ - top_);
    if (op_.draws.n_samples == 0) return binary(before);
    const int draws = static_cast<int>(op_.draws.n_samples);
    const T weight = T(1) / static_cast<T>(draws);
    T value = 0;
#pragma unroll 1
    for (int draw = 0; draw < draws; ++draw) value += weight * joint_draw(draw, before, weight);
    return value;
  }

  __device__ T joint_draw(int draw, T before, T weight) {
    const T classes = static_cast<T>(count_), spread = sqrt(classes * alpha_), towards_x = classes * alpha_;
    eps_.hold(team_, count_, normals_of(draw));
    const T eps_x = sum_with_normals(draw, [&](int, int, int k, T, T eps) { return k == x_ ? eps : T(0); });
    const auto ratio = [&](int k, T eps) { return exp_and_expm1(k == x_ ? T(0) : spread * (eps - eps_x) - towards_x); };
    const T sum = sum_with_normals(draw, [&](int, int, int k, T z, T eps) { return p(z) * ratio(k, eps).expm1; });
    T mixture = 1 + sum;
    if (!(sum > T(-0.5))) {
      mixture = sum_with_normals(draw, [&](int, int, int k, T z, T eps) { return p(z) * ratio(k, eps).exp; });
    }
    const JointDraw<T> joint(sum, mixture, weight);
    if (joint.beyond) return draw_beyond(draw, before, weight, spread, towards_x);
    if (op_.grad_logits) {
      each_with_normals(draw, [&](int i, int j, int k, T z, T eps) {
        set(i, j, k, get(i, j, k) + joint.slope(p(z), ratio(k, eps)));
      });
    }
    return joint.divergence;
  }

  // Adds a draw whose M exceeds the range of float (JointDraw), by the log-odds before and after the message. The
  // largest logit is subtracted first, so that large logits do not absorb the digits of the message.
  __device__ T draw_beyond(int draw, T before, T weight, T spread, T towards_x) {
    T top_other = kMinusInfinity<T>, y_x = 0;
    const auto message = [&](int k, T eps) { return spread * eps + (k == x_ ? towards_x : T(0)); };
    const auto shifted = [&](int k, T z, T eps) { return (z - top_) + message(k, eps); };
    each_with_normals(draw, [&](int, int, int k, T z, T eps) {
      if (k == x_) {
        y_x = message(k, eps);
      } else {
        top_other = Larger()(top_other, shifted(k, z, eps));
      }
    });
    top_other = team_.reduce(top_other, kMinusInfinity<T>, Larger());
    y_x = team_.reduce(y_x, T(0), Add());
    const T others = sum_with_normals(
        draw, [&](int, int, int k, T z, T eps) { return k == x_ ? T(0) : exp(shifted(k, z, eps) - top_other); });
    const T z_x = (z_.logit(x_) - top_) + y_x, after = log(others) + top_other - z_x;
    const T rest = z_.sum_over([&](int, int, int k, T z) { return k == x_ ? T(0) : exp_difference(z, top_); });
    if (op_.grad_logits) {
      const T top = Larger()(top_other, z_x);
      const T inverse = T(1) / (others * exp_difference(top_other, top) + exp_difference(z_x, top));
      each_with_normals(draw, [&](int i, int j, int k, T z, T eps) {
        const T moved = exp_difference(shifted(k, z, eps), top) * inverse;
        set(i, j, k, get(i, j, k) + weight * (p(z) - moved));
      });
    }
    return softplus_fall(before, after, log(others) + top_other - y_x - log(rest));
  }

  // The sum over the nodes of a quadrature. It needs K = 2, for which y_x - y_o ~ N(2 alpha, 4 alpha).
  __device__ T binary(T before) {
    const T p_x = p(z_.logit(x_)), other = p(z_.logit(1 - x_));
    T value = 0, step = 0;
#pragma unroll 1
    for (int i = 0; i < static_cast<int>(op_.draws.num_nodes); ++i) {
      const T difference = -(2 * alpha_ + 2 * sqrt(alpha_) * nodes_.at[i]), weight = nodes_.weight[i];
      const ExpAndExpm1<T> ratio = exp_and_expm1(difference);
      const JointDraw<T> joint(other * ratio.expm1, p_x + other * ratio.exp, weight);
      step += joint.beyond ? weight * (sigmoid(before + difference) - other) : joint.slope(p_x, {T(1), T(0)});
      value += weight * (joint.beyond ? softplus_fall(before, before + difference, difference) : joint.divergence);
    }
    z_.each([&](int i, int j, int k, T) { set(i, j, k, k == x_ ? step : -step); });
    return value;
  }

  // The terms that must be computed in logarithms (far_term): that of class x, and that of the likeliest class.
  struct Far {
    int x = -1, likeliest = -1;  // -1 if there is no far term
    T log_p, log_rest, top_other, others;
    T by_log_p = 0, by_log_rest = 0;
  };
  __device__ Far far_terms(int likeliest) {
    Far far;
    const T z_x = z_.logit(x_);
    if (!(p(z_x) < kFarShare<T>)) return far;
    const auto other = [&](int, int, int k, T z) { return k == likeliest ? kMinusInfinity<T> : z; };
    far.x = x_;
    far.top_other = z_.max_over(other);
    far.others = z_.sum_over([&](int i, int j, int k, T z) {
      return other(i, j, k, z) == kMinusInfinity<T> ? T(0) : exp_difference(z, far.top_other);
    });
    far.log_p = z_x - top_ + log(inverse_);
    far.log_rest = far.top_other - top_ + log(far.others) + log(inverse_);
    if (far.log_rest < log(kFarShare<T>)) far.likeliest = likeliest;
    return far;
  }
  // Returns the far terms of a draw. eps_x and eps are the normals of class x and of the likeliest class.
  __device__ T far_draw(Far& far, T r, T eps_x, T eps, T weight) {
    const auto of_x = far_term(far.log_p, density_shift(true, r, eps_x));
    far.by_log_p += weight * of_x.derivative;
    if (far.likeliest < 0) return of_x.value;
    const auto of_rest = far_term(far.log_rest, density_shift(false, r, eps));
    far.by_log_rest += weight * of_rest.derivative;
    return of_x.value + of_rest.value;
  }
  // Adds the gradients of the far terms by the logits. The gradient of ln p_x is e_x - p. With m the likeliest class,
  // the gradient of ln(1 - p_m) is -p_m at m, and at any other class k it is p_m p_k / (1 - p_m).
  __device__ void far_gradient(const Far& far) {
    z_.each([&](int i, int j, int k, T z) {
      const T p_k = p(z);
      T by = far.by_log_p * ((k == far.x ? T(1) : T(0)) - p_k);
      if (far.likeliest >= 0) {
        const T of_rest = far.others > T(0) ? exp_difference(z, far.top_other) / far.others : T(0);
        by += far.by_log_rest * (k == far.likeliest ? -p_k : of_rest);
      }
      set(i, j, k, get(i, j, k) + by);
    });
  }

  __device__ T factorised() {
    const T r = sqrt(static_cast<T>(count_) * alpha_);
    const int likeliest = z_.first_of(top_);
    const T rest = z_.sum_over([&](int, int, int k, T z) { return k == likeliest ? T(0) : p(z); });
    Far far = far_terms(likeliest);
    const int draws = static_cast<int>(op_.draws.count());
    T value = 0;
#pragma unroll 1
    for (int draw = 0; draw < draws; ++draw) {
      const T weight = op_.draws.n_samples ? T(1) / static_cast<T>(draws) : nodes_.weight[draw];
      const auto term = [&](int i, int j, int k, T z, T eps) {
        if (k == far.x || k == far.likeliest) return T(0);
        const T p_k = p(z);
        const auto t = factorised_term(k == x_, p_k, k == likeliest ? rest : 1 - p_k, r, eps);
        set(i, j, k, get(i, j, k) + weight * t.derivative);
        return t.value;
      };
      T eps_x = op_.draws.n_samples ? T(0) : nodes_.at[draw], eps = eps_x;
      if (op_.draws.n_samples) {
        eps_.hold(team_, count_, normals_of(draw));
        value += weight * sum_with_normals(draw, term);
        if (far.x >= 0) {
          eps_x = sum_with_normals(draw, [&](int, int, int k, T, T normal) { return k == far.x ? normal : T(0); });
          eps = sum_with_normals(draw, [&](int, int, int k, T, T normal) { return k == likeliest ? normal : T(0); });
        }
      } else {
        value += weight * z_.sum_over([&](int i, int j, int k, T z) { return term(i, j, k, z, eps); });
      }
      if (far.x >= 0) value += weight * far_draw(far, r, eps_x, eps, weight);
    }
    if (!op_.grad_logits) return value;
    factorised_gradient(likeliest);
    if (far.x >= 0) far_gradient(far);
    return value;
  }

  // Turns the derivatives g by p into derivatives by the logits, p_k (g_k - mean of g). For the likeliest class this
  // difference cancels, so its derivative is a sum of differences instead.
  __device__ void factorised_gradient(int likeliest) {
    const T mean = z_.sum_over([&](int i, int j, int k, T z) { return p(z) * get(i, j, k); });
    const T g = z_.at(likeliest, [&](int i, int j, int k, T) { return get(i, j, k); });
    const T away =
        z_.sum_over([&](int i, int j, int k, T z) { return k == likeliest ? T(0) : p(z) * (g - get(i, j, k)); });
    z_.each([&](int i, int j, int k, T z) { set(i, j, k, p(z) * (k == likeliest ? away : get(i, j, k) - mean)); });
  }
};

}  // namespace bfn
