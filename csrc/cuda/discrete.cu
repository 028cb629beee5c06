#include "../ops/discrete.h"

#include "class_steps.h"
#include "loss.h"
#include "nstep_rows.h"
#include "soft_rows.h"

namespace bfn {
namespace {

// A multiprocessor must have room for at least this many blocks of a kernel. This bounds the registers of a thread. For
// kernels in double and for kernels that need many registers, the number is 1.
template <class A, bool kManyRegisters = false>
constexpr int kLeastBlocks = sizeof(typename A::Compute) == sizeof(double) || kManyRegisters ? 1 : 2;

// Stores the softmax of a row.
template <class A, class Team, int kSlots>
__device__ void store_softmax(const Team& team, const View& from, const View& out, int64_t row, int count) {
  using T = typename A::Compute;
  ClassRow<A, Team, kSlots> logits(team, count, Logits<A>(from, row, count));
  const T inverse = 1 / logits.exponentials();
  for_groups<kSlots>(team, count, [&](int i, int first) {
    T e[4];
    logits.exponential_group(i, first, e);
#pragma unroll
    for (int j = 0; j < 4; ++j) e[j] *= inverse;
    A::store(out, row, count, first, e);
  });
}

template <class A, class Team, int kSlots>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<A>)
    theta_kernel(const __grid_constant__ DiscreteTheta op, int team_size) {
  const Team team(team_size);
  const int count = static_cast<int>(op.num_classes);
  for_rows(team, op.count, [&](int64_t row) { store_softmax<A, Team, kSlots>(team, op.logits, op.out, row, count); });
}

// Makes the sender's message about class x, or about soft data. It makes the numbers of one group of classes at a time.
template <class A>
struct MessageRow {
  using T = typename A::Compute;
  const DiscreteSender& op;
  int64_t seed, row;
  int x;
  T beta, spread;

  __device__ void operator()(int first, T (&y)[4]) const {
    const int count = static_cast<int>(op.num_classes);
    const T classes = static_cast<T>(count);
    class_normals(op.noise, seed, row, count, first, 0, 0, y);
    if (A::kReadsRare && op.x.is_floating()) {
      T p[4] = {};
      A::load(op.x, row, count, first, p);
#pragma unroll
      for (int j = 0; j < 4; ++j) y[j] = message(p[j], beta, spread, y[j], classes);
      return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      y[j] = message(T(0), beta, spread, y[j], classes) + (first + j == x ? beta * classes : T(0));
    }
  }
};

template <class A, class Team, int kSlots>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<A>)
    sender_kernel(const __grid_constant__ DiscreteSender op, int team_size) {
  using T = typename A::Compute;
  const Team team(team_size);
  const int count = static_cast<int>(op.num_classes);
  const int64_t seed = seed_of(op.noise);
  for_rows(team, op.count, [&](int64_t row) {
    const int64_t x = A::kReadsRare && op.x.is_floating() ? 0 : read_row<int64_t>(op.x, row);
    const MessageRow<A> message{
        op, seed, row, static_cast<int>(x), read_row<T>(op.alpha, row), read_row<T>(op.spread, row)};
    ClassRow<A, Team, kSlots, MessageRow<A>> y(team, count, message);
    T scale = is_class(x, count) ? T(1) : kNaN<T>;
    if (op.probs) scale /= y.exponentials();
    for_groups<kSlots>(team, count, [&](int i, int first) {
      T out[4];
      op.probs ? y.exponential_group(i, first, out) : y.group(i, first, out);
#pragma unroll
      for (int j = 0; j < 4; ++j) out[j] *= scale;
      A::store(op.out, row, count, first, out);
    });
  });
}

// A plain update with noise or, with kSolves, any other step. One kernel for both would need too many registers.
template <class A, class Team, int kSlots, bool kSolves>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<A, kSolves || (kSlots > 1)>)
    update_kernel(const __grid_constant__ DiscreteUpdate op, int team_size) {
  using T = typename A::Compute;
  const Team team(team_size);
  const int count = static_cast<int>(op.num_classes);
  const int64_t seed = seed_of(op.noise), draw_seed = seed_of(op.sent.draw);
  for_rows(team, op.count, [&](int64_t row) {
    Logits<A> guided(op.output_logits, row, count);
    if (kSolves && op.guidance.on()) guided.guide(op.guidance);
    ClassRow<A, Team, kSlots> logits(team, count, guided);
    SentRow<T> sent{-1, false, T(0)};
    const bool is_known = op.sent.known && read<int>(op.sent.known_mask, row);
    const bool is_soft = A::kReadsRare && is_known && op.sent.known.is_floating();
    if (is_known) {
      const int64_t known = is_soft ? 0 : read_row<int64_t>(op.sent.known, row);
      if (is_class(known, count)) sent.class_index = known;
    } else {
      sent = choose(team, op, row, logits, draw_seed);
    }
    const StepScalars<T> scalars(op, row, kSolves);
    const T poison = sent.class_index < 0 && !sent.is_distribution ? kNaN<T> : T(0);
    for_groups<kSlots>(team, count, [&](int i, int first) {
      T z[4], state[4], eps[4];
      if (sent.is_distribution) logits.exponential_group(i, first, z);
      if constexpr (kSolves) {
#pragma unroll
        for (int j = 0; j < 4; ++j) z[j] = sent.at(first + j, sent.is_distribution ? z[j] : T(0)) + poison;
        if (is_soft) A::load(op.sent.known, row, count, first, z);
        if (A::kReadsRare && op.score.values && !is_known) add_score<A>(op.score, row, count, first, z);
        return solve<A>(op, scalars, seed, row, first, z);
      }
      A::load(op.state, row, count, first, state);
      class_normals(op.noise, seed, row, count, first, 0, 0, eps);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T p = sent.at(first + j, sent.is_distribution ? z[j] : T(0));
        state[j] += message(p, scalars.beta, scalars.spread, eps[j], static_cast<T>(count)) + poison;
      }
      A::store(op.out, row, count, first, state);
    });
    // Each thread reads only classes of the new state that it wrote itself, so that no barrier is needed.
    if (op.theta) store_softmax<A, Team, kSlots>(team, op.out, op.theta, row, count);
  });
}

// Reduces the losses of the rows of a block's chunk. cost(row, x, on) returns the loss of a row. `on` is false if this
// loss is not used: it is 0 for a row whose mask is 0, and NaN for a row whose class is out of range. For soft data, x
// is 0.
template <class T, class Team, class F>
__device__ void reduce_rows(const Team& team, const LossTarget& to, const Chunks& chunks, const View& x_view, bool soft,
                            int64_t num_classes, F&& cost) {
  const Range range = range_of(chunks);
  double sum = 0;
  int32_t costs = 0;
#pragma unroll 1
  for (int64_t row = range.begin + team.index(); row < range.end; row += team.per_block()) {
    const bool on = read<int>(to.mask, row, 1) != 0;
    const int64_t x = !on ? -1 : soft ? 0 : read_row<int64_t>(x_view, row);
    const bool valid = is_class(x, num_classes);
    const T value = cost(row, valid ? x : 0, valid), loss = on ? (valid ? value : kNaN<T>) : T(0);
    if (team.rank != 0) continue;
    if (to.reduction == Reduction::kNone) write_row(to.loss, row, loss);
    sum += loss;
    costs += on;
  }
  finish_block<T>(to, chunks, sum, costs);
}

template <class A, class Team, int kSlots>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<A>)
    loss_kernel(const __grid_constant__ DiscreteLoss op, const Chunks chunks, int team_size) {
  using T = typename A::Compute;
  const Team team(team_size);
  const int count = static_cast<int>(op.num_classes);
  const bool soft = A::kReadsRare && op.x.is_floating();
  reduce_rows<T>(team, op.to, chunks, op.x, soft, count, [&](int64_t row, int64_t x, bool on) {
    if constexpr (A::kReadsRare) {
      if (soft) return soft_cost<A, Team, kSlots>(team, op, row, on);
    }
    RowStats<T> stats{};
    const Logits<A> network(op.logits, row, count);
    if (on) {
      ClassRow<A, Team, kSlots> logits(team, count, network);
      RowStatsSums<Sum<T, kSlots>, T> sums(network.one(x));
      const T top = logits.sum_exponentials(static_cast<int>(x), sums);
      stats = sums.stats(top);
    }
    if (op.stats && team.rank == 0) {
      const T numbers[kRowStats] = {stats.max, stats.x, stats.rest, stats.quadratic};
      for (int64_t i = 0; i < kRowStats; ++i) write_row(op.stats, row * kRowStats + i, numbers[i]);
    }
    if (!on) return T(0);
    if (op.weight) return read_row<T>(op.weight, row) * squared_distance(stats);
    return cross_entropy(stats, network.one(x));
  });
}

template <class A, class Team, int kSlots>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<A>)
    loss_backward_kernel(const __grid_constant__ DiscreteLossBackward op, int team_size) {
  using T = typename A::Compute;
  const Team team(team_size);
  const int count = static_cast<int>(op.num_classes);
  for_rows(team, op.count, [&](int64_t row) {
    const bool on = read<int>(op.mask, row, 1) != 0;
    const bool soft = A::kReadsRare && op.x.is_floating();
    const int64_t x = on && !soft ? read_row<int64_t>(op.x, row) : 0;
    const T grad = is_class(x, count) ? read_row<T>(op.grad, row) : kNaN<T>;
    const int class_x = static_cast<int>(x);
    T numbers[kRowStats];
    for (int64_t i = 0; i < kRowStats; ++i) numbers[i] = read_row<T>(op.stats, row * kRowStats + i);
    if constexpr (A::kReadsRare) {
      const SoftStats<T> row_of_x{numbers[0], numbers[1], numbers[2], numbers[3]};
      const T by = grad * read_row<T>(op.weight, row, T(1));
      if (soft)
        return soft_gradient<A, Team, kSlots>(team, op, row, on, {row_of_x, by, static_cast<bool>(op.weight)},
                                              row_of_x.max);
    }
    const RowStats<T> stats{numbers[0], numbers[1], numbers[2], numbers[3]};
    const RowSlopes<T> slopes = op.weight ? squared_distance_slopes(stats, grad * read_row<T>(op.weight, row))
                                          : cross_entropy_slopes(stats, grad);
    for_groups<kSlots>(team, count, [&](int, int first) {
      T z[4];
      Logits<A>(op.logits, row, count)(first, z);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const T by_other = slopes.by_other(exp_difference(z[j], stats.max));
        z[j] = !on ? T(0) : first + j == class_x ? slopes.grad_x : by_other;
      }
      A::store(op.grad_logits, row, count, first, z);
    });
  });
}

template <class A, class Team, int kSlots>
__global__ void __launch_bounds__(kThreads, 1)
    nstep_kernel(const __grid_constant__ DiscreteNStep op, const __grid_constant__ Nodes<typename A::Compute> nodes,
                 const Chunks chunks, int team_size) {
  using T = typename A::Compute;
  const Team team(team_size);
  const int64_t seed = seed_of(op.draws.noise);
  reduce_rows<T>(team, op.to, chunks, op.x, false, op.num_classes, [&](int64_t row, int64_t x, bool on) {
    // A row whose class is out of range gets the gradient NaN. A row that the mask excludes gets the gradient 0.
    const T unused = read<int>(op.to.mask, row, 1) != 0 ? kNaN<T> : T(0);
    NStepRow<A, Team, kSlots> sum(team, op, nodes, seed, row, x, on, unused);
    return sum();
  });
}

template <class A, class Team, int kSlots>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<A>)
    entropy_kernel(const __grid_constant__ LossOf<DiscreteEntropy> op, const Chunks chunks, int team_size) {
  using T = typename A::Compute;
  const Team team(team_size);
  const int count = static_cast<int>(op.num_classes);
  reduce_rows<T>(team, op.to, chunks, View{}, true, count, [&](int64_t row, int64_t, bool on) {
    const auto store = [&](auto&& make) {
      if (!op.gradients[0]) return;
      for_groups<kSlots>(team, count, [&](int i, int first) {
        T slopes[4] = {};
        make(i, first, slopes);
        GradientAccess<A>::type::store(op.gradients[0], row, count, first, slopes);
      });
    };
    if (!on) {
      store([](int, int, T(&)[4]) {});
      return T(0);
    }
    ClassRow<A, Team, kSlots> logits(team, count, Logits<A>(op.inputs[0], row, count));
    const auto total = logits.total();
    const T top = total.top, inverse = T(1) / total.sum;
    Sum<T, kSlots> small = 0, terms = 0;
    logits.each([&](int, int, int, T z) {
      const T e = exp_difference(z, top);
      small += is_small(e) ? e : T(0);
      terms += entropy_term(e, top - z);
    });
    small = team.reduce(small, Sum<T, kSlots>(0), Add());
    const T mean_d = inverse * static_cast<T>(team.reduce(terms, Sum<T, kSlots>(0), Add()));
    store([&](int i, int first, T(&z)[4]) {
      logits.group(i, first, z);
#pragma unroll
      for (int j = 0; j < 4; ++j) z[j] = entropy_slope(exp_difference(z[j], top) * inverse, top - z[j], mean_d);
    });
    return log_total(total.sum, static_cast<T>(small)) + mean_d;
  });
}

int64_t grid_of(int64_t rows, int threads, int team_size) {
  return std::min<int64_t>(ceil_div(rows, threads / team_size), kMaxBlocks);
}

}  // namespace

template <class T>
void discrete_theta(const DiscreteTheta& op) {
  const Layout layout = Layout().data(op.logits).data(op.out);
  with_classes<T>(layout, op.num_classes, [&](auto a, auto team, auto slots, int threads, int size) {
    launch(&theta_kernel<typename decltype(a)::type, typename decltype(team)::type, decltype(slots)::value>,
           grid_of(op.count, threads, size), threads, op, size);
  });
}

template <class T>
void discrete_sender(const DiscreteSender& op) {
  const Layout layout = Layout().data(op.out).soft(op.x);
  with_classes<T>(layout, op.num_classes, [&](auto a, auto team, auto slots, int threads, int size) {
    launch(&sender_kernel<typename decltype(a)::type, typename decltype(team)::type, decltype(slots)::value>,
           grid_of(op.count, threads, size), threads, op, size);
  });
}

template <class T>
void discrete_update(const DiscreteUpdate& op) {
  Layout layout = Layout().data(op.output_logits).data(op.state).data(op.out).data(op.theta);
  layout.data(op.solver.previous).data(op.solver.prediction).data(op.guidance.unconditional);
  layout.rare(op.output_logits.class_mask).rare(op.score.values).soft(op.sent.known);
  const bool rare = op.score.values || op.sent.known.is_floating();
  const bool solves = op.solver.on() || op.guidance.on() || rare || !op.noise.any();
  with_classes<T>(layout, op.num_classes, [&](auto a, auto team, auto slots, int threads, int size) {
    using A = typename decltype(a)::type;
    using Team = typename decltype(team)::type;
    const auto kernel = solves ? &update_kernel<A, Team, decltype(slots)::value, true>
                               : &update_kernel<A, Team, decltype(slots)::value, false>;
    launch(kernel, grid_of(op.count, threads, size), threads, op, size);
  });
}

template <class T>
void discrete_loss(const DiscreteLoss& op) {
  const Layout layout = Layout().data(op.logits).rare(op.logits.class_mask).soft(op.x);
  with_classes<T>(layout, op.num_classes, [&](auto a, auto team, auto slots, int threads, int size) {
    const Chunks chunks = chunks_of(op.to, threads / size);
    launch(&loss_kernel<typename decltype(a)::type, typename decltype(team)::type, decltype(slots)::value>,
           chunks.blocks, threads, op, chunks, size);
    finish_losses<T>(op.to, chunks);
  });
}

template <class T>
void discrete_loss_backward(const DiscreteLossBackward& op) {
  const Layout layout = Layout().data(op.logits).data(op.grad_logits).rare(op.logits.class_mask).soft(op.x);
  with_classes<T>(layout, op.num_classes, [&](auto a, auto team, auto slots, int threads, int size) {
    launch(&loss_backward_kernel<typename decltype(a)::type, typename decltype(team)::type, decltype(slots)::value>,
           grid_of(op.count, threads, size), threads, op, size);
  });
}

template <class T>
void discrete_nstep(const DiscreteNStep& op) {
  const Layout layout = Layout().data(op.logits).rare(op.logits.class_mask);
  const Nodes<T> nodes(op.draws);
  const auto run = [&](auto a, auto team, auto slots, int threads, int size) {
    const Chunks chunks = chunks_of(op.to, threads / size);
    launch(&nstep_kernel<typename decltype(a)::type, typename decltype(team)::type, decltype(slots)::value>,
           chunks.blocks, threads, op, nodes, chunks, size);
    finish_losses<T>(op.to, chunks);
  };
  // This kernel is limited by arithmetic, not by memory. So narrower types use the general access, and fewer kernels
  // are compiled.
  if constexpr (sizeof(T) == sizeof(float)) {
    if (layout.dense() && layout.data_type() == DType::kFloat) return with_team<DenseClasses<T>>(op.num_classes, run);
  }
  with_team<AnyClasses<T>>(op.num_classes, run);
}

template <class T>
void discrete_entropy(const LossOf<DiscreteEntropy>& op) {
  const Layout layout = Layout().data(op.inputs[0]);
  with_classes<T>(layout, op.num_classes, [&](auto a, auto team, auto slots, int threads, int size) {
    const Chunks chunks = chunks_of(op.to, threads / size);
    launch(&entropy_kernel<typename decltype(a)::type, typename decltype(team)::type, decltype(slots)::value>,
           chunks.blocks, threads, op, chunks, size);
    finish_losses<T>(op.to, chunks);
  });
}

BFN_INSTANTIATE(discrete_theta, const DiscreteTheta&);
BFN_INSTANTIATE(discrete_sender, const DiscreteSender&);
BFN_INSTANTIATE(discrete_update, const DiscreteUpdate&);
BFN_INSTANTIATE(discrete_loss, const DiscreteLoss&);
BFN_INSTANTIATE(discrete_loss_backward, const DiscreteLossBackward&);
BFN_INSTANTIATE(discrete_nstep, const DiscreteNStep&);
BFN_INSTANTIATE(discrete_entropy, const LossOf<DiscreteEntropy>&);

}  // namespace bfn
