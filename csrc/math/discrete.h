// Discrete data; equation numbers are those of arXiv 2308.07037. A row holds the K logits of one variable; what sums
// over k leave the class x out, so that nothing cancels as p_x goes to 1 [derived].
#pragma once

#include "elementary.h"

namespace bfn {

BFN_HD bool is_class(int64_t x, int64_t num_classes) { return x >= 0 && x < num_classes; }

// y_k = beta (K e_xk - 1) + sqrt(K beta) eps (185); `sent` is e_xk, or p_k.
template <class T>
BFN_HD T message(T sent, T beta, T spread, T eps, T num_classes) {
  return beta * (num_classes * sent - 1) + spread * eps;
}

// Of e_k = exp(z_k - max): e_x, and sums over k != x of e_k and of e_k^2. Where a wrong class is likelier than not, of
// e_k (1 - e_k) in the place of e_k^2: p_k - s, which cancels as p_k goes to 1, is (e_x + moment)/total^2 where e_k = 1
// [derived].
template <class T>
struct RowStats {
  T max, x, rest, moment;

  BFN_HD T total() const { return x + rest; }
  BFN_HD T q() const { return rest / total(); }  // 1 - p_x
  BFN_HD T s() const { return (wrong() ? rest - moment : moment) / square(total()); }
  BFN_HD bool wrong() const { return (x < T(1)) & (total() < T(2)); }  // no &&: it runs in SIMD lanes
};

// From sums of e_k, e_k^2 and e_k (1 - e_k), which may be in a wider type.
template <class T, class S>
BFN_HD RowStats<T> row_stats(T max, T x, S rest, S square, S spread) {
  const RowStats<T> row{max, x, static_cast<T>(rest), static_cast<T>(square)};
  const T moment = static_cast<T>(spread);
  return {max, x, row.rest, row.wrong() ? moment : row.moment};
}

// L_inf = weight (q^2 + s) (205).
template <class T>
BFN_HD T squared_distance(RowStats<T> row) {
  return square(row.q()) + row.s();
}

// -ln p_x. Where e_x underflows, z_x says how small it is.
template <class T>
BFN_HD T cross_entropy(RowStats<T> row, T z_x) {
  return row.x > T(0.5) ? log1p(row.rest / row.x) : log(row.total()) + row.max - z_x;
}

// Derivatives of either loss times a factor: `grad_x` by the logit of x, and `by_other` by that of another class.
template <class T>
struct RowSlopes {
  T grad_x, slope, level, origin;

  BFN_HD T by_other(T e) const { return e * (slope * (e - origin) + level); }
};

// -2 p_x (q^2 + s) and 2 p_k (p_k - s + p_x q), in which p_k - s = (e_k - origin)/total + above/total^2.
template <class T>
BFN_HD RowSlopes<T> squared_distance_slopes(RowStats<T> row, T factor) {
  const T inverse = 1 / row.total(), slope = 2 * factor * square(inverse), by = slope * inverse;
  const T origin = static_cast<T>(row.wrong()), above = origin * (row.x + 2 * row.moment) - row.moment;
  return {-by * row.x * (square(row.rest) + (origin * row.total() - above)), slope, by * (row.x * row.rest + above),
          origin};
}

template <class T>
BFN_HD RowSlopes<T> cross_entropy_slopes(RowStats<T> row, T factor) {
  return {-factor * row.q(), T(0), factor / row.total(), T(0)};
}

constexpr double kMaxShift = 80;  // exp of it stays well within float

// The joint receiver (189, 190): y_x + LSE(z) - LSE(z + y) = -ln(1 + S), S the mean of exp(y_k - y_x) - 1 under p.
// Where S is near -1 or large, `before` and `after`, ln((1 - p_x)/p_x) of z and z + y, say it better.
template <class T>
BFN_HD bool joint_sum_serves(T sum) {
  return sum > T(-0.5) && sum < T(1e8);
}

// M = 1 + S, summed as the mean of exp(y_k - y_x), loses nothing as S nears -1 (the divergence is then -ln M), until
// it leaves the range of float. Normals that seeds make keep the terms below exp(46).
template <class T>
BFN_HD bool joint_mixture_serves(T mixture) {
  return mixture > T(1e-18) && mixture < T(1e30);
}

template <class T>
BFN_HD T joint_divergence(T before, T after) {
  return softplus(before) - softplus(after);
}

// One coordinate of the factorised receiver: -ln of p and 1 - p, one of them times the density ratio exp(shift). With w
// the one that is: -ln(1 + w (exp(shift) - 1)).
template <class T>
struct FactorisedTerm {
  T value, derivative;  // by p
};

template <class T>
BFN_HD T density_shift(bool is_x, T r, T eps) {
  return (is_x ? -r : r) * eps - T(0.5) * r * r;
}

// By selections, not branches: it runs in SIMD lanes.
template <class T>
BFN_HD FactorisedTerm<T> factorised_term(bool is_x, T p, T rest, T r, T eps) {
  const T shift = density_shift(is_x, r, eps), w = is_x ? rest : p, other = is_x ? p : rest;
  const T capped = shift < T(kMaxShift) ? shift : T(kMaxShift);
  const ExpAndExpm1<T> e = exp_and_expm1(capped);
  const T sum = w * e.expm1;
  // w near 1 and a small ratio: what is left of 1 is then the other share
  const bool small = sum < T(-0.5);
  const T mixture = small ? other + w * e.exp : 1 + sum, rounded = mixture - 1, value = log(mixture);
  const T corrected = rounded == T(0) ? sum : value * (sum / rounded);  // log1p(sum), by the rounding of 1 + sum
  return {capped - shift - (small ? value : corrected), (is_x ? e.expm1 : -e.expm1) / mixture};
}

// A share below which both it and the ratio may underflow beside a w of 1. Where p_x is as small, so may be what the
// likeliest class leaves to others: those two coordinates, and no others, are then added in logs.
template <class T>
constexpr T kFarShare = static_cast<T>(sizeof(T) == sizeof(float) ? 1e-28 : 1e-290);

// -ln(share + exp(shift)), and its derivative by ln share.
template <class T>
BFN_HD FactorisedTerm<T> far_term(T log_share, T shift) {
  const T above = log_share - shift, capped = shift < T(kMaxShift) ? shift : T(kMaxShift);
  return {-(above > T(0) ? log_share : shift) - log1p(exp(-abs(above))), expm1(capped) * sigmoid(above)};
}

}  // namespace bfn
