// The numbers of kLanes variables from which NStepSum (nstep.h) makes the sums of the discretised n-step loss.
#pragma once

#include <algorithm>

#include "../math/nstep.h"
#include "parallel.h"

namespace bfn {

// A number for each variable.
template <class T>
using Lanes = T[kLanes];
constexpr size_t kCacheLine = 64;  // in bytes; a vector that crosses the end of a line takes twice as long to read

// Members of a struct of lanes: the numbers of a struct S for each variable, `set` and `at`. The macro `LIST` names
// each number once, in the order of S: LIST(X) is X(one) X(two).
#define BFN_LANES(S, LIST) \
  LIST(BFN_LANE)           \
  void set(int64_t j, const S& from){LIST(BFN_SET_LANE)} S at(int64_t j) const { return {LIST(BFN_AT_LANE)}; }
#define BFN_LANE(name) alignas(kCacheLine) Lanes<T> name;
#define BFN_SET_LANE(name) name[j] = from.name;
#define BFN_AT_LANE(name) name[j],

// The variables whose sums are computed together. The window of a variable serves all draws from `least` to `most`.
template <class T>
struct NStepInputs {
  Lanes<T> x, mean, std, tau, least, most;
};

// The terms of one point.
template <class T>
struct TermLanes {
  alignas(kCacheLine) Lanes<T> exponent, distance, mass, by_mean, by_std;

  // Stores a term whose exponent includes distance * tilt. The slopes of the draws must then be reduced by `tilt`. A
  // term that does not count changes neither the sums nor the largest term.
  void set(int64_t j, const NStepTerm<T>& term, T tilt, bool counts) {
    exponent[j] = counts ? term.exponent + term.distance * tilt : T(-1e30);
    distance[j] = counts ? term.distance : T(0);
    mass[j] = counts ? term.mass.value : T(0);
    by_mean[j] = counts ? term.mass.by_mean : T(0);
    by_std[j] = counts ? term.mass.by_std : T(0);
  }
  NStepTerm<T> at(int64_t j) const { return {exponent[j], distance[j], {mass[j], by_mean[j], by_std[j]}}; }
};

// The sums of one draw, divided by 2^top. NStepSum turns them into ln sum_k p_k exp(q_k (eps - q_k / 2)) and its
// derivatives by mean and std.
template <class T>
struct DrawLanes {
  alignas(kCacheLine) Lanes<T> top, value, by_mean, by_std;

  DrawLanes() : value{}, by_mean{}, by_std{} { std::fill_n(top, kLanes, T(-1e30)); }
  WithGradient<T> at(int64_t j) const { return {value[j], by_mean[j], by_std[j]}; }

  void add(const NStepTerm<T>& term, int64_t j, T slope) {
    const T e = exp2_term(term.exponent + term.distance * slope - top[j]);
    value[j] += e * term.mass.value;
    by_mean[j] += e * term.mass.by_mean;
    by_std[j] += e * term.mass.by_std;
  }
  // Multiplies the sums by a factor and adds a mass. Repeated, this computes polynomials by Horner's rule.
  void append(T factor, const WithGradient<T>& mass, int64_t j) {
    value[j] = value[j] * factor + mass.value;
    by_mean[j] = by_mean[j] * factor + mass.by_mean;
    by_std[j] = by_std[j] * factor + mass.by_std;
  }
};

// A function with loops over lanes. Nothing in these loops is a branch, so that compilers vectorise them. But two
// passes of GCC would first turn selections of a long loop into branches.
#if defined(__GNUC__) && !defined(__clang__)
#define BFN_VECTORISED [[gnu::noinline, gnu::optimize("no-tree-pre", "no-thread-jumps")]]
#else
#define BFN_VECTORISED [[gnu::noinline]]
#endif

}  // namespace bfn
