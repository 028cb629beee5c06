// The n-step loss of a row of classes (189, 190), and its gradient.
#pragma once

#include "../ops/discrete.h"
#include "classes.h"
#include "nodes.h"

namespace bfn {

// The loss L_n of one row. Each thread keeps the derivatives of its classes in registers, or in a sweep in grad_logits.
template <class A, class Team, int kSlots>
class NStepRow {
 public:
  using T = typename A::Compute;

  __device__ NStepRow(const Team& team, const DiscreteNStep& op, const Nodes<T>& nodes, int64_t seed, int64_t row,
                      int64_t x, bool on, T unused)
      : team_(team),
        op_(op),
        nodes_(nodes),
        count_(static_cast<int>(op.num_classes)),
        z_(team, count_, Logits<A>(op.logits, row, count_)),
        seed_(seed),
        row_(row),
        x_(static_cast<int>(x)),
        on_(on),
        unused_(unused) {}

  // Returns the loss, and writes its gradient. A row that is not `on` has the loss 0 and the gradient `unused`.
  __device__ T operator()() {
    clear(on_ ? T(0) : unused_);
    T value = 0;
    if (on_) {
      alpha_ = read<T>(op_.alpha, row_);
      KeptSum sums{{}, p_};
      top_ = z_.sum_exponentials(-1, sums);
      inverse_ = T(1) / static_cast<T>(sums.rest);
      if constexpr (kSlots != kSweep) z_.each([&](int i, int j, int, T) { p_.each[i][j] *= inverse_; });
      value = op_.receiver == Receiver::kFactorised ? factorised() : joint();
    }
    write_gradient(static_cast<T>(op_.n_steps));
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
  T unused_, alpha_, top_, inverse_;
  // The derivatives, the probabilities, and the normals of a draw, which `joint` replaces by ratios of densities. In a
  // sweep the probabilities and the normals are computed again in every pass over the row.
  ClassRegisters<T, kSlots> gradient_, p_, eps_;

  // The sum of exp(z - top) over the classes. It stores the terms of the slots, which are added in order.
  struct KeptSum : ExpSum<Sum<T, kSlots>, T> {
    ClassRegisters<T, kSlots>& kept;
    int count = 0;

    __device__ void add(T e) {
      this->rest += e;
      if constexpr (kSlots != kSweep) kept.each[count / 4][count % 4] = e;
      ++count;
    }
  };

  __device__ T* grad_logits() const { return static_cast<T*>(op_.grad_logits.data) + row_ * count_; }
  __device__ T p(T z) const { return exp_difference(z, top_) * inverse_; }
  // p of the class in slot i, whose logit is z.
  __device__ T p(int i, int j, T z) const {
    if constexpr (kSlots != kSweep) return p_.each[i][j];
    return p(z);
  }

  __device__ void clear(T value) {
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
#pragma unroll
      for (int j = 0; j < 4; ++j) set_gradient(i, j, first + j, value);
    });
  }
  __device__ void set_gradient(int i, int j, int k, T value) {
    if constexpr (kSlots != kSweep) {
      gradient_.each[i][j] = value;
    } else if (k < count_ && op_.grad_logits) {
      grad_logits()[k] = value;
    }
  }
  __device__ T gradient_at(int i, int j, int k) const {
    if constexpr (kSlots != kSweep) return gradient_.each[i][j];
    return op_.grad_logits ? grad_logits()[k] : T(0);
  }
  // Writes the gradient times a factor to grad_logits.
  __device__ void write_gradient(T factor) {
    if (!op_.grad_logits) return;
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (first + j < count_) grad_logits()[first + j] = factor * gradient_at(i, j, first + j);
      }
    });
  }

  // Returns a function that makes the normals of a group in a draw.
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
      if (j == 0) eps_.prepare(i, k, make);
      f(i, j, k, z, eps_.each[i][j]);
    });
  }
  template <class F>
  __device__ T sum_with_normals(int draw, F&& f) {
    Sum<T, kSlots> sum = 0;
    each_with_normals(draw, [&](int i, int j, int k, T z, T eps) { sum += f(i, j, k, z, eps); });
    return static_cast<T>(team_.reduce(sum, Sum<T, kSlots>(0), Add()));
  }

  // The messages of a draw of the joint receiver, whose density ratios are 2^(spread eps + shift). If `less` is 1, they
  // are near 1, and ratio - 1 is stored instead of the ratio; else it is 0. precise(): below kLargeSpread.
  struct Message {
    T spread, less, shift;

    __device__ bool precise() const { return !(spread >= T(kLargeSpread / kLogOfTwo)); }
    __device__ void to_ratios(T (&eps)[4]) const {
      if (precise()) {
#pragma unroll
        for (int j = 0; j < 4; ++j) eps[j] = exp2_less(fused(spread, eps[j], shift), less);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) eps[j] = exp2_fast(fused(spread, eps[j], shift));
      }
    }
  };

  __device__ T joint() {
    if (op_.draws.n_samples == 0) return binary(log_odds_before());
    const int draws = static_cast<int>(op_.draws.n_samples);
    const T weight = T(1) / static_cast<T>(draws), towards_x = static_cast<T>(count_) * alpha_;
    const T spread = sqrt(towards_x), to_base_two = static_cast<T>(1 / kLogOfTwo), p_x = p_of_x();
    Message message{spread * to_base_two, spread < T(kSmallSpread) ? T(1) : T(0), T(0)};
    Sum<T, kSlots> of_others = 0;
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
      other_shares(i, first, p_.each[i]);
#pragma unroll
      for (int j = 0; j < 4; ++j) of_others += p_.each[i][j];
    });
    const T others = static_cast<T>(team_.reduce(of_others, Sum<T, kSlots>(0), Add()));
    T value = 0, by_x = 0;
#pragma unroll 1
    for (int draw = 0; draw < draws; ++draw) {
      eps_.fill(team_, count_, normals_of(draw));
      message.shift = -(spread * normal_of_x(draw) + towards_x) * to_base_two;
      for_groups<kSlots>(team_, count_, [&](int i, int) {
        if constexpr (kSlots != kSweep) message.to_ratios(eps_.each[i]);
      });
      Sum<T, kSlots> ratios = 0;
      each_ratio(draw, message, [&](int, int, int, T share, T ratio) { ratios += share * ratio; });
      const T total = static_cast<T>(team_.reduce(ratios, Sum<T, kSlots>(0), Add()));
      const T sum = message.less > T(0) ? total : total - others;
      const T level = message.less > T(0) ? total : p_x + total, mixture = message.less + level;
      const JointDraw<T> joint(sum, mixture, weight);
      if (joint.out_of_range) {
        value += weight * draw_out_of_range(draw, weight, spread, towards_x);
        continue;
      }
      value += weight * joint.divergence;
      by_x += joint.factor * sum;
      if (!op_.grad_logits) continue;
      // Adds share (M - ratio) / M. The difference is 0 if one class has all of the probability.
      const auto add_slopes = [&](auto difference) {
        each_ratio(draw, message, [&](int i, int j, int k, T share, T ratio) {
          set_gradient(i, j, k, fused(share, joint.factor * difference(ratio), gradient_at(i, j, k)));
        });
      };
      if (kSlots == kSweep || message.precise()) {
        // The sum of p_j (ratio_j - ratio) over all classes j, since the sum of p_j is not exactly 1.
        add_slopes([&](T ratio) { return fused(p_x, T(1) - message.less - ratio, fused(-others, ratio, total)); });
      } else {
        add_slopes([&](T ratio) { return level - ratio; });
      }
    }
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (first + j == x_) set_gradient(i, j, x_, gradient_at(i, j, x_) + p_x * by_x);
      }
    });
    return value;
  }

  // The probability of class x.
  __device__ T p_of_x() {
    if constexpr (kSlots == kSweep) return p(z_.logit(x_));
    return z_.at(x_, [&](int i, int j, int, T) { return p_.each[i][j]; });
  }

  // ln((1 - p_x) / p_x). The last term makes it NaN if the largest logit is infinite, since p is NaN then.
  __device__ T log_odds_before() { return z_.log_odds_against(x_, z_.logit(x_)) + (top_ - top_); }

  // The probabilities of a group. They are 0 for class x, and behind the last class.
  __device__ void other_shares(int i, int first, T (&share)[4]) {
    T z[4] = {};
    if constexpr (kSlots == kSweep) z_.group(i, first, z);
#pragma unroll
    for (int j = 0; j < 4; ++j) share[j] = first + j < count_ && first + j != x_ ? p(i, j, z[j]) : T(0);
  }

  // Returns the normal of class x in a draw to all threads.
  __device__ T normal_of_x(int draw) {
    const int group = x_ & ~3;
    const auto of_group = [&](const T(&eps)[4]) {
      const T low = x_ & 1 ? eps[1] : eps[0], high = x_ & 1 ? eps[3] : eps[2];
      return x_ & 2 ? high : low;
    };
    if constexpr (kSlots == kSweep) {
      normals_of(draw)(group, eps_.each[0]);
      return of_group(eps_.each[0]);
    }
    T eps_x = 0;
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
      const T found = of_group(eps_.each[i]);
      eps_x = first == group ? found : eps_x;
    });
    return team_.reduce(eps_x, T(0), Add());
  }

  // Calls f(i, j, k, share, ratio) for the classes of this thread. `share` is p_k, but 0 for class x.
  template <class F>
  __device__ void each_ratio(int draw, const Message& message, F&& f) {
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
      if constexpr (kSlots == kSweep) {
        other_shares(i, first, p_.each[i]);
        normals_of(draw)(first, eps_.each[i]);
        message.to_ratios(eps_.each[i]);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (kSlots != kSweep || first + j < count_) f(i, j, first + j, p_.each[i][j], eps_.each[i][j]);
      }
    });
  }

  // Computes a draw whose M leaves the range of float (JointDraw), by the log-odds before and after the message. It
  // subtracts the largest logit first, so that large logits do not absorb the digits of the message.
  __device__ T draw_out_of_range(int draw, T weight, T spread, T towards_x) {
    eps_.fill(team_, count_, normals_of(draw));
    const T before = log_odds_before();
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
        const T p_after = exp_difference(shifted(k, z, eps), top) * inverse;
        set_gradient(i, j, k, gradient_at(i, j, k) + weight * (p(z) - p_after));
      });
    }
    return softplus_fall(before, after, log(others) + top_other - y_x - log(rest));
  }

  // The expectation by the nodes of a quadrature. It requires K = 2, for which y_x - y_o ~ N(2 alpha, 4 alpha).
  __device__ T binary(T before) {
    const T p_x = p(z_.logit(x_)), other = p(z_.logit(1 - x_));
    T value = 0, step = 0;
#pragma unroll 1
    for (int i = 0; i < static_cast<int>(op_.draws.num_nodes); ++i) {
      const T difference = -(2 * alpha_ + 2 * sqrt(alpha_) * nodes_.at[i]), weight = nodes_.weight[i];
      const ExpAndExpm1<T> ratio = exp_and_expm1(difference);
      const JointDraw<T> joint(other * ratio.expm1, p_x + other * ratio.exp, weight);
      step += joint.out_of_range ? weight * (sigmoid(before + difference) - other) : joint.slope(p_x, {T(1), T(0)});
      value +=
          weight * (joint.out_of_range ? softplus_fall(before, before + difference, difference) : joint.divergence);
    }
    z_.each([&](int i, int j, int k, T) { set_gradient(i, j, k, k == x_ ? step : -step); });
    return value;
  }

  // What the terms need that are computed by log_space_term: the term of class x if p_x is tiny, and the term of the
  // likeliest class if the other classes together have a tiny probability, too.
  struct TinyShares {
    int x = -1, likeliest = -1;  // -1 if this class has no such term
    T log_p, log_rest;           // ln p_x, and ln of the probability of all classes but the likeliest
    T top_other, others;         // the largest logit of these classes, and their sum of exp(z - top_other)
    T by_log_p = 0, by_log_rest = 0;
  };
  __device__ TinyShares tiny_shares(int likeliest) {
    TinyShares tiny;
    const T z_x = z_.logit(x_);
    if (!(p(z_x) < kTinyShare<T>)) return tiny;
    const auto other = [&](int, int, int k, T z) { return k == likeliest ? kMinusInfinity<T> : z; };
    tiny.x = x_;
    tiny.top_other = z_.max_over(other);
    tiny.others = z_.sum_over([&](int i, int j, int k, T z) {
      return other(i, j, k, z) == kMinusInfinity<T> ? T(0) : exp_difference(z, tiny.top_other);
    });
    tiny.log_p = z_x - top_ + log(inverse_);
    tiny.log_rest = tiny.top_other - top_ + log(tiny.others) + log(inverse_);
    if (tiny.log_rest < log(kTinyShare<T>)) tiny.likeliest = likeliest;
    return tiny;
  }
  // Returns the sum of these terms in a draw. eps_x and eps are the normals of class x and of the likeliest class.
  __device__ T tiny_share_terms(TinyShares& tiny, T r, T eps_x, T eps, T weight) {
    const auto of_x = log_space_term(tiny.log_p, density_shift(true, r, eps_x));
    tiny.by_log_p += weight * of_x.derivative;
    if (tiny.likeliest < 0) return of_x.value;
    const auto of_rest = log_space_term(tiny.log_rest, density_shift(false, r, eps));
    tiny.by_log_rest += weight * of_rest.derivative;
    return of_x.value + of_rest.value;
  }
  // Adds the gradients of these terms by the logits. The gradient of ln p_x is e_x - p. With m the likeliest class, the
  // gradient of ln(1 - p_m) is -p_m at m, and at any other class k it is p_m p_k / (1 - p_m).
  __device__ void add_tiny_share_gradient(const TinyShares& tiny) {
    z_.each([&](int i, int j, int k, T z) {
      const T p_k = p(z);
      T by = tiny.by_log_p * ((k == tiny.x ? T(1) : T(0)) - p_k);
      if (tiny.likeliest >= 0) {
        const T of_rest = tiny.others > T(0) ? exp_difference(z, tiny.top_other) / tiny.others : T(0);
        by += tiny.by_log_rest * (k == tiny.likeliest ? -p_k : of_rest);
      }
      set_gradient(i, j, k, gradient_at(i, j, k) + by);
    });
  }

  __device__ T factorised() {
    const T r = sqrt(static_cast<T>(count_) * alpha_);
    const int likeliest = z_.first_of(top_);
    const T rest = z_.sum_over([&](int, int, int k, T z) { return k == likeliest ? T(0) : p(z); });
    TinyShares tiny = tiny_shares(likeliest);
    const int draws = static_cast<int>(op_.draws.count());
    T value = 0;
#pragma unroll 1
    for (int draw = 0; draw < draws; ++draw) {
      const T weight = op_.draws.n_samples ? T(1) / static_cast<T>(draws) : nodes_.weight[draw];
      const auto term = [&](int i, int j, int k, T z, T eps) {
        if (k == tiny.x || k == tiny.likeliest) return T(0);
        const T p_k = p(i, j, z);
        const auto t = factorised_term(k == x_, p_k, k == likeliest ? rest : 1 - p_k, r, eps);
        set_gradient(i, j, k, gradient_at(i, j, k) + weight * t.derivative);
        return t.value;
      };
      T eps_x = op_.draws.n_samples ? T(0) : nodes_.at[draw], eps = eps_x;
      if (op_.draws.n_samples) {
        eps_.fill(team_, count_, normals_of(draw));
        value += weight * sum_with_normals(draw, term);
        if (tiny.x >= 0) {
          eps_x = sum_with_normals(draw, [&](int, int, int k, T, T normal) { return k == tiny.x ? normal : T(0); });
          eps = sum_with_normals(draw, [&](int, int, int k, T, T normal) { return k == likeliest ? normal : T(0); });
        }
      } else {
        value += weight * z_.sum_over([&](int i, int j, int k, T z) { return term(i, j, k, z, eps); });
      }
      if (tiny.x >= 0) value += weight * tiny_share_terms(tiny, r, eps_x, eps, weight);
    }
    if (!op_.grad_logits) return value;
    factorised_gradient(likeliest);
    if (tiny.x >= 0) add_tiny_share_gradient(tiny);
    return value;
  }

  // Turns the derivatives g by p into derivatives by the logits, p_k (g_k - mean of g). For the likeliest class this
  // difference would cancel, so its derivative is a sum of differences.
  __device__ void factorised_gradient(int likeliest) {
    const T mean = z_.sum_over([&](int i, int j, int k, T z) { return p(z) * gradient_at(i, j, k); });
    const T g = z_.at(likeliest, [&](int i, int j, int k, T) { return gradient_at(i, j, k); });
    const T difference_sum = z_.sum_over(
        [&](int i, int j, int k, T z) { return k == likeliest ? T(0) : p(z) * (g - gradient_at(i, j, k)); });
    z_.each([&](int i, int j, int k, T z) {
      set_gradient(i, j, k, p(z) * (k == likeliest ? difference_sum : gradient_at(i, j, k) - mean));
    });
  }
};

}  // namespace bfn
