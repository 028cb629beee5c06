#include "../ops/element_loss.h"

#include <array>
#include <utility>

#include "bad_class.h"
#include "loss.h"

namespace bfn {
namespace {

// Writes the losses of a block and the slopes S, by none or all of the inputs that have one.
template <class Term, class T, size_t... I, size_t... S>
void evaluate(const Term term, T scale, int64_t length, const T* const* in, T* loss, [[maybe_unused]] T* const* slopes,
              std::index_sequence<I...>, std::index_sequence<S...>) {
#pragma GCC ivdep  // what is written overlaps nothing else
  for (int64_t i = 0; i < length; ++i) {
    const auto cost = term(scale, in[I][i]...);
    loss[i] = cost.value;
    ((slopes[S][i] = cost.slopes[S]), ...);
  }
}

template <class T, int kVariant, class Loss, size_t... I, size_t... S>
void reduce_terms(const LossOf<Loss>& op, std::index_sequence<I...> inputs, std::index_sequence<S...> slopes) {
  using Term = typename Loss::template Term<T, kVariant>;
  const Term term(op.numbers);
  const T scale = known_scale<T>(op.to);
  const bool any_slope = (static_cast<bool>(op.gradients[S]) || ...);
  const Limits limits = Loss::limits(kVariant, op.numbers);
  RangeCheck<T> range(limits.name, limits.low, limits.high);
  BadClass bad;
  // The numbers of a missing input are the same in all blocks, so each thread writes them once.
  const auto make = [&] {
    std::array<std::array<T, kBlock>, sizeof...(I)> buffers;
    (void(op.inputs[I] || (buffers[I].fill(static_cast<T>(kTensor<Loss, I>.missing)), true)), ...);
    return buffers;
  };
  reduce_losses<T>(op.to, 1, make, [&](int64_t start, int64_t length, const uint8_t* mask, T* loss, auto& buffers) {
    const auto read = [&]<size_t n>() -> const T* {
      if constexpr (kTensor<Loss, n>.kind == kSign) {
        load_signs(op.inputs[n], start, length, mask, buffers[n].data(), bad);
      } else if (op.inputs[n]) {
        return load(op.inputs[n], start, length, buffers[n].data());
      }
      return buffers[n].data();
    };
    const T* const in[] = {read.template operator()<I>()...};
    if (limits.low > -HUGE_VAL || limits.high < HUGE_VAL) range.check(in[limits.tensor], length, mask);
    if (!any_slope) return evaluate<Term, T>(term, scale, length, in, loss, nullptr, inputs, std::index_sequence<>());
    SavedGradient<T> saved[] = {{op.gradients[S], start, length, mask}...};
    T* const out[] = {saved[S].out...};
    evaluate<Term, T>(term, scale, length, in, loss, out, inputs, slopes);
    (saved[S].write(), ...);
  });
  store_unit_scale<T>(op.to);
  (void(kTensor<Loss, I>.kind == kSign && (bad.throw_if_found(kTensor<Loss, I>.name, 2), true)), ...);
  range.throw_if_found();
}

template <class T, class Loss>
void element_loss(const LossOf<Loss>& op) {
  with_variant(op, [&](auto variant) {
    reduce_terms<T, variant>(op, std::make_index_sequence<kTensors<Loss>>(), std::make_index_sequence<kSlopes<Loss>>());
  });
}

}  // namespace

BFN_ELEMENT_LOSSES(BFN_DEFINE_LOSS)

}  // namespace bfn
