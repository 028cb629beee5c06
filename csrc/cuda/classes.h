// A row of classes that a team of threads shares. The row is divided into groups of four classes. Each thread has
// slots, and each slot holds a group in registers. If the row has too many classes for this, the threads sweep the row:
// they have no slots, and read their groups again in every pass over the row.
#pragma once

#include "class_access.h"
#include "team.h"

namespace bfn {

// kSlots is the number of slots of a thread. This value of kSlots means a sweep.
constexpr int kSweep = 0;

// Calls f(slot, first) for the groups of this thread. `first` is the first class of the group. In a sweep `slot` is
// always 0.
template <int kSlots, class Team, class F>
__device__ __forceinline__ void for_groups(const Team& team, int count, F&& f) {
  if constexpr (kSlots != kSweep) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const int first = 4 * (team.rank + i * team.size);
      if (first < count) f(i, first);
    }
  } else {
#pragma unroll 1
    for (int first = 4 * team.rank; first < count; first += 4 * team.size) f(0, first);
  }
}

// The numbers of a thread's groups. make(first, numbers) makes the four numbers of a group. Slots are filled once, and
// every pass reads them. In a sweep every pass makes the numbers again.
template <class T, int kSlots>
struct ClassRegisters {
  T each[kSlots == kSweep ? 1 : kSlots][4];

  template <class Team, class F>
  __device__ __forceinline__ void fill(const Team& team, int count, F&& make) {
    if constexpr (kSlots != kSweep) for_groups<kSlots>(team, count, [&](int i, int first) { make(first, each[i]); });
  }
  // A pass must call this before it reads the numbers of slot i.
  template <class F>
  __device__ __forceinline__ void prepare(int i, int first, F&& make) {
    if constexpr (kSlots == kSweep) make(first, each[i]);
  }
};

// The type of sums over classes. A sweep has so many classes that it sums in double, to stay precise.
template <class T, int kSlots>
using Sum = std::conditional_t<kSlots == kSweep, double, T>;

// Sums e = exp(z - top). The caller holds `top`, the largest logit so far. It calls start(top) if it knows top before
// the first add(). When a larger logit `to` replaces top, it calls raise(exp(top - to), to); at first, the factor is 0.
template <class S, class T>
struct ExpSum {
  S rest = 0;

  __device__ void start(T) {}
  __device__ void raise(T factor, T) { rest *= factor; }
  __device__ void add(T e) { rest += e; }
  template <class Team>
  __device__ void reduce(const Team& team) {
    rest = team.reduce(rest, S(0), Add());
  }
};

// The sums of RowStats. `quadratic` is the sum of e (e - shift). `shift` is 1 if z_x is below the largest logit, and 0
// otherwise. The sum of e^2 is quadratic + shift rest. If shift is 1, the sum of e (1 - e) is -quadratic, and otherwise
// RowStats does not need it.
template <class S, class T>
struct RowStatsSums {
  T z_x, shift = 0;
  S rest = 0, quadratic = 0;

  __device__ explicit RowStatsSums(T logit_of_x) : z_x(logit_of_x) {}
  __device__ T shift_by(T top) const { return z_x < top ? T(1) : T(0); }
  __device__ void start(T top) { shift = shift_by(top); }
  __device__ void raise(T factor, T to) {
    const T next = shift_by(to);
    quadratic = factor * (factor * quadratic + (factor * shift - next) * rest);
    rest *= factor;
    shift = next;
  }
  __device__ void add(T e) {
    rest += e;
    quadratic += e * (e - shift);
  }
  template <class Team>
  __device__ void reduce(const Team& team) {
    rest = team.reduce(rest, S(0), Add());
    quadratic = team.reduce(quadratic, S(0), Add());
  }
  __device__ RowStats<T> stats(T top) const {
    return row_stats(top, exp_difference(z_x, top), rest, quadratic + shift * rest, -quadratic);
  }
};

// Sums and searches over the classes of a row. make(first, numbers) makes the four numbers of a group.
template <class A, class Team, int kSlots, class Make = Logits<A>>
class ClassRow {
 public:
  using T = typename A::Compute;

  __device__ ClassRow(const Team& team, int count, const Make& make) : team_(team), count_(count), make_(make) {
    z_.fill(team, count, make_);
  }

  // Reads group i of this thread, whose first class is `first`. Elements of z behind the last class have no meaning.
  __device__ __forceinline__ void group(int i, int first, T (&z)[4]) {
    if constexpr (kSlots != kSweep) {
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
#pragma unroll
        for (int j = 0; j < 4; ++j) z[j] = slot == 0 || slot == i ? z_.each[slot][j] : z[j];
      }
    } else if (first < count_) {
      make_(first, z);
    }
  }
  // Calls f(slot, j, k, z_k) for each class k of this thread, in order. j is the index of k in its group.
  template <class F>
  __device__ __forceinline__ void each(F&& f) {
    for_groups<kSlots>(team_, count_, [&](int i, int first) {
      z_.prepare(i, first, make_);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (first + j < count_) f(i, j, first + j, z_.each[i][j]);
      }
    });
  }
  template <class F>
  __device__ __forceinline__ T max_over(F&& f) {
    T top = kMinusInfinity<T>;
    each([&](int i, int j, int k, T z) { top = Larger()(top, f(i, j, k, z)); });
    return team_.reduce(top, kMinusInfinity<T>, Larger());
  }
  template <class F>
  __device__ __forceinline__ T sum_over(F&& f) {
    Sum<T, kSlots> sum = 0;
    each([&](int i, int j, int k, T z) { sum += f(i, j, k, z); });
    return static_cast<T>(team_.reduce(sum, Sum<T, kSlots>(0), Add()));
  }
  // Returns the result of f for class x to all threads.
  template <class F>
  __device__ __forceinline__ T at(int x, F&& f) {
    T value = 0;
    each([&](int i, int j, int k, T z) { value = k == x ? f(i, j, k, z) : value; });
    return team_.reduce(value, T(0), Add());
  }
  __device__ T logit(int x) {
    return at(x, [](int, int, int, T z) { return z; });
  }
  // Returns the first class with this number, or K if there is none.
  __device__ __forceinline__ int first_of(T number) {
    int first = count_;
    each([&](int, int, int k, T z) { first = z == number && k < first ? k : first; });
    return team_.reduce(first, count_, Smaller());
  }
  // Returns ln((1 - p_x) / p_x).
  __device__ __forceinline__ T log_odds_against(int x, T z_x) {
    const T top = max_over([&](int, int, int k, T z) { return k == x ? kMinusInfinity<T> : z; });
    const T sum = sum_over([&](int, int, int k, T z) { return k == x ? T(0) : exp(z - top); });
    return log(sum) + top - z_x;
  }
  // Adds e = exp(z - top) of all classes but `left_out` to the sums. Returns `top`, the largest number of all classes.
  // With kKeep, each e takes the place of its number in the slots.
  template <bool kKeep = false, class Sums>
  __device__ __forceinline__ T sum_exponentials(int left_out, Sums& sums);

  struct Total {
    T top, sum;
  };
  // Returns the largest number, `top`, and the sum of exp(z - top) over all classes.
  __device__ __forceinline__ Total total() {
    ExpSum<Sum<T, kSlots>, T> sums;
    const T top = sum_exponentials(-1, sums);
    return {top, static_cast<T>(sums.rest)};
  }
  // Returns the sum of e = exp(z - top). From then on only exponential_group() may be called.
  __device__ __forceinline__ T exponentials() {
    ExpSum<Sum<T, kSlots>, T> sums;
    top_ = sum_exponentials<true>(-1, sums);
    return static_cast<T>(sums.rest);
  }
  // Reads e of a group as group() reads z. It is 0 behind the last class.
  __device__ __forceinline__ void exponential_group(int i, int first, T (&e)[4]) {
    group(i, first, e);
    if constexpr (kSlots == kSweep) {
#pragma unroll
      for (int j = 0; j < 4; ++j) e[j] = first + j < count_ ? exp_difference(e[j], top_) : T(0);
    }
  }

 private:
  Team team_;
  int count_;
  Make make_;
  ClassRegisters<T, kSlots> z_;
  T top_;  // only for a sweep
};

// In a sweep, the sums are made in one pass over the row. They refer to the largest number so far. A larger number
// raises them.
template <class A, class Team, int kSlots, class Make>
template <bool kKeep, class Sums>
__device__ __forceinline__ auto ClassRow<A, Team, kSlots, Make>::sum_exponentials(int left_out, Sums& sums) -> T {
  T top = kMinusInfinity<T>;
  if constexpr (kSlots != kSweep) {
    T others[kSlots][4];  // -inf behind the last class
    const bool whole = count_ % 4 == 0;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const int first = 4 * (team_.rank + i * team_.size);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        others[i][j] = first + (whole ? 0 : j) < count_ ? z_.each[i][j] : kMinusInfinity<T>;
        top = Larger()(top, others[i][j]);
      }
    }
    top = team_.reduce(top, kMinusInfinity<T>, Larger());
    sums.start(top);
    const bool owner = left_out >= 0 && (left_out / 4 & (team_.size - 1)) == team_.rank;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const int place = owner ? left_out - 4 * (team_.rank + i * team_.size) : -1;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T e = exp_difference(others[i][j], top);
        if constexpr (kKeep) z_.each[i][j] = e;
        sums.add(j == place ? T(0) : e);
      }
    }
  } else {
    const auto raise = [&](T to) {
      sums.raise(top == kMinusInfinity<T> ? T(0) : exp_difference(top, to), to);
      top = to;
    };
    each([&](int, int, int k, T z) {
      if (!(z <= top)) raise(z);
      sums.add(k == left_out || z == kMinusInfinity<T> ? T(0) : exp_difference(z, top));
    });
    raise(team_.reduce(top, kMinusInfinity<T>, Larger()));
  }
  sums.reduce(team_);
  return top;
}

// Makes the normals of four classes of a row.
template <class T>
__device__ __forceinline__ void class_normals(const Noise& from, int64_t seed, int64_t row, int count, int first,
                                              uint32_t draw, int64_t draw_stride, T (&eps)[4]) {
  if (from.explicit_values) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t at = draw * draw_stride + row * count + first + j;
      eps[j] = first + j < count ? read<T>(from.explicit_values, at) : T(0);
    }
  } else {
    const int64_t groups = (count + 3) / 4;
    normals(seed, static_cast<uint64_t>(row * groups + first / 4), from.stream, draw, eps);
  }
}

// Returns how many threads with `slots` slots each can hold all classes. The result is a power of two, and at most
// `limit`.
inline int team_size(int64_t num_classes, int slots, int limit) {
  int size = 1;
  while (size < limit && 4 * slots * size < num_classes) size *= 2;
  return size;
}

constexpr int kManySlots = 4;

// Chooses the team of a row. With dense data it is some lanes of a warp for up to 512 classes, a block that holds the
// row in slots for up to 4096 classes, and a block that sweeps the row for more. Other data is swept earlier: above 512
// classes, and in double above 128. Some work is needed once for each row, but each thread of a team repeats it. So
// with more than 16 classes, threads have kManySlots slots (in double, one slot). They then take a half to a quarter of
// the instructions that they would take with one slot.
template <class A, class F>
void with_team(int64_t num_classes, F&& f) {
  using OneSlot = std::integral_constant<int, 1>;
  using ManySlots = std::integral_constant<int, kManySlots>;
  if (num_classes <= (A::kWarpsUseManySlots ? 16 : 128)) {
    return f(Tag<A>{}, Tag<WarpTeam>{}, OneSlot{}, kThreads, team_size(num_classes, 1, 32));
  }
  if constexpr (A::kWarpsUseManySlots) {
    if (num_classes <= 4 * kManySlots * 32) {
      return f(Tag<A>{}, Tag<WarpTeam>{}, ManySlots{}, kThreads / 2, team_size(num_classes, kManySlots, 32));
    }
  }
  if constexpr (A::kBlocksUseManySlots) {
    const int size = team_size(num_classes, kManySlots, kThreads);
    if (num_classes <= 4 * kManySlots * size) return f(Tag<A>{}, Tag<BlockTeam>{}, ManySlots{}, size, size);
  }
  f(Tag<A>{}, Tag<BlockTeam>{}, std::integral_constant<int, kSweep>{}, kThreads, kThreads);
}

// Calls f(Tag<A>, Tag<Team>, slots, threads per block, team size), where A is the access to classes.
template <class T, class F>
void with_classes(const Layout& layout, int64_t num_classes, F&& f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (layout.dense() && layout.data_type() == DType::kFloat) return with_team<DenseClasses<float>>(num_classes, f);
    if (layout.dense() && layout.data_type() == DType::kBFloat16) {
      return with_team<DenseClasses<BFloat16>>(num_classes, f);
    }
    if (layout.dense() && layout.data_type() == DType::kHalf) return with_team<DenseClasses<Half>>(num_classes, f);
  }
  with_team<AnyClasses<T>>(num_classes, f);
}

// Calls f(row) for each row that this team handles.
template <class Team, class F>
__device__ void for_rows(const Team& team, int64_t rows, F&& f) {
  const int64_t size = int64_t{gridDim.x} * team.per_block();
#pragma unroll 1
  for (int64_t row = int64_t{blockIdx.x} * team.per_block() + team.index(); row < rows; row += size) f(row);
}

}  // namespace bfn
