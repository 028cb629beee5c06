// The sums of the discretised n-step loss (math/nstep.h), for kLanes variables at a time. The terms of a window are
// computed once for all draws.
#pragma once

#include <algorithm>
#include <vector>

#include "nstep_lanes.h"

namespace bfn {

template <class T>
class NStepSum {
 public:
  NStepSum(Bins<T> bins, int64_t num_draws)
      : eps(num_draws * kLanes), draws(num_draws), bins_(bins), slopes_(num_draws * kLanes) {
    for (int i = 0; i < kNodes; ++i) {
      nodes_[i] = static_cast<T>(legendre_node(i));
      weights_[i] = static_cast<T>(legendre_weight(i));
    }
  }

  std::vector<T> eps;               // of each draw and variable, set by the caller
  std::vector<DrawLanes<T>> draws;  // the results

  void operator()(const NStepInputs<T>& in) {
    std::fill(draws.begin(), draws.end(), DrawLanes<T>());
    if (bins_.clip) {
      set_windows<true>(in, windows_, origins_, normals_);
      set_end<true>(stored_[num_stored_++]);
      set_end<false>(stored_[num_stored_++]);
    } else {
      set_windows<false>(in, windows_, origins_, normals_);
    }
    set_slopes();
    bounded_ = false;
    const int count = static_cast<int>(*std::max_element(windows_.count, windows_.count + kLanes));
    for (int i = 0, end; i < count; i = end) {
      end = std::min(count, i + kMostStored - num_stored_);
      if (narrow_) {
        set_points<true>(i, end, stored_ + num_stored_);
      } else {
        set_points<false>(i, end, stored_ + num_stored_);
      }
      if (i == 0 && end == count && add_evenly_spaced(stored_ + num_stored_, count)) break;
      num_stored_ += end - i;
      if (num_stored_ == kMostStored) add_stored();
    }
    if (num_stored_) add_stored();
    if (any(windows_.cut_low)) add_cuts<true>();
    if (any(windows_.cut_high)) add_cuts<false>();
    finish();
  }

 private:
  static constexpr int kMostStored = 64;

#define BFN_NSTEP_WINDOW(X) X(offset) X(step) X(count) X(panels) X(cut_low) X(cut_high)
  struct WindowLanes {
    BFN_LANES(NStepWindow<T>, BFN_NSTEP_WINDOW)
  };
#define BFN_NSTEP_ORIGIN(X) X(bin) X(z) X(side) X(along) X(q)
  struct OriginLanes {
    BFN_LANES(NStepOrigin<T>, BFN_NSTEP_ORIGIN)
  };
#define BFN_WITH_GRADIENT(X) X(value) X(by_mean) X(by_std)
  struct TotalLanes {
    BFN_LANES(WithGradient<T>, BFN_WITH_GRADIENT)
  };
#define BFN_NSTEP_NORMAL(X) X(x) X(mean) X(std) X(tau) X(inverse_std) X(unit) X(q_unit)
  struct NormalLanes {
    BFN_NSTEP_NORMAL(BFN_LANE)
    alignas(kCacheLine) Lanes<T> uniform;
    TotalLanes total;
    alignas(kCacheLine) Lanes<T> tilt;

    void set(int64_t j, const NStepNormal<T>& normal) {
      const NStepTerms<T>& from = normal.terms;
      BFN_NSTEP_NORMAL(BFN_SET_LANE)
      uniform[j] = from.uniform ? T(1) : T(0);
      total.set(j, normal.total);
    }
    NStepTerms<T> at(int64_t j, Bins<T> bins) const { return {bins, BFN_NSTEP_NORMAL(BFN_AT_LANE) uniform[j] > T(0)}; }
  };
#define BFN_NSTEP_CUT(X) X(slope) X(slope_by_eps) X(bend) X(slope_by_mean) X(slope_by_std) X(bend_by_std)
  struct CutLanes {
    TermLanes<T> bin;
    BFN_NSTEP_CUT(BFN_LANE)

    void set(int64_t j, const NStepCut<T>& from) {
      bin.set(j, from.bin, T(0), true);
      BFN_NSTEP_CUT(BFN_SET_LANE)
    }
    NStepCut<T> at(int64_t j) const { return {bin.at(j), BFN_NSTEP_CUT(BFN_AT_LANE)}; }
  };

  Bins<T> bins_;
  std::vector<T> slopes_;  // of each draw and variable
  T nodes_[kNodes], weights_[kNodes];
  WindowLanes windows_;
  OriginLanes origins_;
  NormalLanes normals_;
  bool narrow_;  // whether all bins of all windows are narrow
  TermLanes<T> stored_[kMostStored];
  int num_stored_ = 0;
  bool bounded_;  // whether no term is above 2^90 times its mass, so that sums need no division by the largest term

  template <bool kClip>
  BFN_VECTORISED void set_windows(const NStepInputs<T>& in, WindowLanes& __restrict windows,
                                  OriginLanes& __restrict origins, NormalLanes& __restrict normals) {
    const Bins<T> bins{bins_.count, kClip};
    Lanes<T> wide;
    for (int64_t j = 0; j < kLanes; ++j) {
      const NStepNormal<T> normal(in.x[j], in.mean[j], in.std[j], in.tau[j], bins);
      const NStepOrigin<T> origin = normal.origin(in.least[j], in.most[j]);
      const NStepWindow<T> window = normal.window(origin, in.least[j], in.most[j]);
      origins.set(j, origin);
      windows.set(j, window);
      normals.set(j, normal);
      normals.tilt[j] = normal.terms.slope(origin, T(0.5) * (in.least[j] + in.most[j]));
      wide[j] = normal.terms.narrow(origin, window) ? T(0) : T(1);
    }
    narrow_ = !any(wide);
  }

  BFN_VECTORISED void set_slopes() {
    const Bins<T> bins = bins_;
    for (size_t d = 0; d < draws.size(); ++d) {
      Lanes<T> slopes;
      for (int64_t j = 0; j < kLanes; ++j) {
        slopes[j] = normals_.at(j, bins).slope(origins_.at(j), eps[d * kLanes + j]) - normals_.tilt[j];
      }
      std::copy_n(slopes, kLanes, slopes_.data() + d * kLanes);
    }
  }

  static bool any(const Lanes<T>& flags) {
    return std::any_of(flags, flags + kLanes, [](T flag) { return flag > T(0); });
  }

  template <bool kFirst>
  BFN_VECTORISED void set_end(TermLanes<T>& __restrict terms) {
    const Bins<T> bins = bins_;
    for (int64_t j = 0; j < kLanes; ++j) {
      terms.set(j, normals_.at(j, bins).end_bin(origins_.at(j), kFirst), normals_.tilt[j], true);
    }
  }

  // Makes the terms of the points [first, end).
  template <bool kNarrow>
  BFN_VECTORISED void set_points(int first, int end, TermLanes<T>* __restrict terms) {
    const Bins<T> bins = bins_;
    for (int i = first; i < end; ++i) {
      const T node = nodes_[i % kNodes], weight = weights_[i % kNodes], index = static_cast<T>(i);
      for (int64_t j = 0; j < kLanes; ++j) {
        const Point<T> point = windows_.at(j).point(i, node, weight);
        const NStepTerms<T> normal = normals_.at(j, bins);
        const bool counts = !(index >= windows_.count[j]);
        terms[i - first].set(j, normal.template point<kNarrow>(origins_.at(j), point), normals_.tilt[j], counts);
      }
    }
  }

  // Adds the terms of evenly spaced points, which are all points of the windows. Returns false, and adds nothing, if
  // the points are not evenly spaced or if a number could overflow. Discards the stored end bins if they do not change
  // a sum. Sets bounded_.
  bool add_evenly_spaced(TermLanes<T>* terms, int count) {
    const bool ends_matter = bound_terms(terms, count);
    if (!bounded_ || any(windows_.panels)) return false;
    if (!ends_matter) num_stored_ = 0;
    add_powers(terms, count);
    return true;
  }

  // Sets bounded_, from the terms of all points and from the end bins, which are stored. Then a term is at most
  // 2^(30 + 60) times its mass, which a float can hold. Returns whether the end bins matter in some draw: whether a
  // term of an end bin is above 2^-80 of the largest. Masses differ by at most 2^37, since `Limits` keeps each std
  // below 1e6. Unrolled, the short loops would not be vectorised.
  BFN_VECTORISED bool bound_terms(const TermLanes<T>* __restrict terms, int count) {
    Lanes<T> largest, ends, steepest{}, unfit, needed;
    std::fill_n(largest, kLanes, T(-1e30));
    std::fill_n(ends, kLanes, T(-1e30));
    for (int i = 0; i < count; ++i) {
#pragma GCC unroll 1
      for (int64_t j = 0; j < kLanes; ++j) largest[j] = larger(terms[i].exponent[j], largest[j]);
    }
    for (size_t d = 0; d < draws.size(); ++d) {
#pragma GCC unroll 1
      for (int64_t j = 0; j < kLanes; ++j) steepest[j] = larger(abs(slopes_[d * kLanes + j]), steepest[j]);
    }
    for (int i = 0; i < num_stored_; ++i) {
#pragma GCC unroll 1
      for (int64_t j = 0; j < kLanes; ++j) {
        ends[j] = larger(stored_[i].exponent[j] + abs(stored_[i].distance[j]) * steepest[j], ends[j]);
      }
    }
#pragma GCC unroll 1
    for (int64_t j = 0; j < kLanes; ++j) {
      const T from = windows_.offset[j], steps = windows_.panels[j] > T(0) ? windows_.panels[j] : T(count);
      const T far = larger(abs(from), abs(from + windows_.step[j] * steps));
      unfit[j] = (abs(largest[j]) < T(30)) & (steepest[j] * far < T(60)) & (ends[j] < T(60)) ? T(0) : T(1);
      needed[j] = ends[j] < largest[j] - T(80) ? T(0) : T(1);
    }
    bounded_ = !any(unfit);
    return any(needed);
  }

  // Term i of a draw is c_i r^(i - middle) times a factor, where only r and the factor depend on the draw. So a sum is
  // a polynomial in r and another one in 1/r, and needs one exponential for all its terms.
  BFN_VECTORISED void add_powers(TermLanes<T>* __restrict terms, int count) {
    const int middle = count / 2;
    for (int i = 0; i < count; ++i) {
      for (int64_t j = 0; j < kLanes; ++j) {
        const T e = exp2_term(terms[i].exponent[j]);
        terms[i].mass[j] *= e;
        terms[i].by_mean[j] *= e;
        terms[i].by_std[j] *= e;
      }
    }
    for (size_t d = 0; d < draws.size(); ++d) {
      DrawLanes<T> above, below;
      Lanes<T> ratio, inverse;
      for (int64_t j = 0; j < kLanes; ++j) {
        const T slope = slopes_[d * kLanes + j], step = windows_.step[j];
        below.top[j] = slope * (windows_.offset[j] + step * static_cast<T>(middle));
        ratio[j] = exp2_term(slope * step);
        inverse[j] = 1 / ratio[j];
      }
      for (int i = 0; i < middle; ++i) {
#pragma GCC unroll 1
        for (int64_t j = 0; j < kLanes; ++j) {
          above.append(ratio[j], terms[count - 1 - i].at(j).mass, j);
          below.append(inverse[j], terms[i].at(j).mass, j);
        }
      }
      if (count % 2) {
#pragma GCC unroll 1
        for (int64_t j = 0; j < kLanes; ++j) above.append(ratio[j], terms[middle].at(j).mass, j);
      }
#pragma GCC unroll 1
      for (int64_t j = 0; j < kLanes; ++j) below.append(inverse[j], above.at(j), j);
      draws[d] = below;
    }
  }

  // Adds the stored terms to the sums.
  void add_stored() {
    for (size_t d = 0; d < draws.size(); ++d) {
      Lanes<T> top;
      std::copy_n(draws[d].top, kLanes, top);
      if (bounded_) {
        std::fill_n(top, kLanes, T(0));
      } else {
        find_tops(stored_, num_stored_, slopes_.data() + d * kLanes, top);
      }
      add_terms(stored_, num_stored_, slopes_.data() + d * kLanes, top, draws[d]);
    }
    num_stored_ = 0;
  }

  // Raises `top` to the largest term of each variable. Unrolled, the short loop would not be vectorised.
  [[gnu::noinline]] static void find_tops(const TermLanes<T>* __restrict terms, int64_t count,
                                          const T* __restrict slopes, T* __restrict top) {
    for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 1
      for (int64_t j = 0; j < kLanes; ++j) {
        const T term = terms[i].exponent[j] + terms[i].distance[j] * slopes[j];
        top[j] = larger(term, top[j]);
      }
    }
  }
  [[gnu::noinline]] static void add_terms(const TermLanes<T>* __restrict terms, int64_t count,
                                          const T* __restrict slopes, const T* __restrict new_top,
                                          DrawLanes<T>& __restrict sums) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const T scale = exp2_term(sums.top[j] - new_top[j]);
      sums.top[j] = new_top[j];
      sums.value[j] *= scale;
      sums.by_mean[j] *= scale;
      sums.by_std[j] *= scale;
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = 0; j < kLanes; ++j) sums.add(terms[i].at(j), j, slopes[j]);
    }
  }

  template <bool kLow>
  BFN_VECTORISED void add_cuts() {
    const Bins<T> bins = bins_;
    CutLanes cuts;
    for (int64_t j = 0; j < kLanes; ++j) {
      cuts.set(j, normals_.at(j, bins).cut(origins_.at(j), windows_.at(j), kLow));
    }
    Lanes<T> counts;
    std::copy_n(kLow ? windows_.cut_low : windows_.cut_high, kLanes, counts);
    for (size_t d = 0; d < draws.size(); ++d) {
      Lanes<T> each, slopes;
      std::copy_n(eps.data() + d * kLanes, kLanes, each);
      std::copy_n(slopes_.data() + d * kLanes, kLanes, slopes);
      DrawLanes<T> draw = draws[d];
      TermLanes<T> terms;
      for (int64_t j = 0; j < kLanes; ++j) {
        terms.set(j, cuts.at(j).of(each[j]), normals_.tilt[j], counts[j] > T(0));
        draw.add(terms.at(j), j, slopes[j]);
      }
      draws[d] = draw;
    }
  }

  BFN_VECTORISED void finish() {
    const Bins<T> bins = bins_;
    for (size_t d = 0; d < draws.size(); ++d) {
      Lanes<T> each;
      std::copy_n(eps.data() + d * kLanes, kLanes, each);
      DrawLanes<T> draw = draws[d];
      for (int64_t j = 0; j < kLanes; ++j) {
        const WithGradient<T> total = normals_.total.at(j);
        const T log_origin = normals_.at(j, bins).log_origin(origins_.at(j), each[j]);
        const auto sum = nstep_log(draw.top[j], log_origin, draw.at(j), total);
        draw.value[j] = sum.value;
        draw.by_mean[j] = sum.by_mean;
        draw.by_std[j] = sum.by_std;
      }
      draws[d] = draw;
    }
  }
};

}  // namespace bfn
