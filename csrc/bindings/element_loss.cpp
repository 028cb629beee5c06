// The operators of elementwise losses. Torch passes the inputs of a loss in order, the mask, the reduction and, for
// each input with a slope, whether its gradient is needed.
#include "../ops/discrete.h"

#include <utility>

#include "operators.h"
#include "records.h"

namespace bfn::bindings {
namespace {

template <Kind kind, int flags>
using Argument = std::conditional_t<
    kind == kNumber, double,
    std::conditional_t<kind == kInteger, int64_t, std::conditional_t<(flags & kOptional) != 0, MaybeTensor, Tensor>>>;
template <class Loss, size_t... I>
std::tuple<Argument<Loss::kInputs[I].kind, Loss::kInputs[I].flags>...> inputs_of(std::index_sequence<I...>);
template <size_t>
using Flag = bool;
template <size_t... S>
std::tuple<Flag<S>...> needs_of(std::index_sequence<S...>);

// The inputs of a loss as torch passes them, and a flag for each slope.
template <class Loss>
using Inputs = decltype(inputs_of<Loss>(std::make_index_sequence<kNumInputs<Loss>>()));
template <class Loss>
using Needs = decltype(needs_of(std::make_index_sequence<kSlopes<Loss>>()));

using bfn::is_double;
bool is_double(double) { return false; }
Given or_first(Given x, Given) { return x; }
Given or_first(Maybe x, Given first) { return x ? *x : first; }

template <class Loss, Kernel<LossOf<Loss>> in_float, Kernel<LossOf<Loss>> in_double>
auto loss_new(const Inputs<Loss>& inputs, const LossTarget& target, const Needs<Loss>& needs) {
  Given first = std::get<0>(inputs);
  constexpr bool of_rows = Loss::kInputs[0].kind == kClasses;
  const Shape shape = shape_of(first), variables = of_rows ? without_last(shape) : shape;
  const auto run = [&]<size_t... I, size_t... S>(std::index_sequence<I...>, std::index_sequence<S...>) {
    // Row scalars have the type of the arithmetic, and do not decide it.
    const bool wide = ((Loss::kInputs[I].kind < kRow && is_double(std::get<I>(inputs))) || ...);
    const ScalarType type = wide ? ScalarType::Double : ScalarType::Float;
    const Reduced to = target.over(first, variables, type, Loss::kInputs[0].name);
    const Output gradients[] = {output_like(or_first(std::get<place_of<Loss>(S, &Input::has_slope)>(inputs), first),
                                            type, std::get<S>(needs))...};
    LossOf<Loss> op{.gradients = {gradients[S].view...}, .to = to.to, .num_classes = of_rows ? shape.back() : 1};
    const auto pass = [&]<size_t i>(const auto& x) {
      constexpr Input input = Loss::kInputs[i];
      constexpr int place = count_before<Loss>(i, &Input::is_tensor);
      if constexpr (!input.is_tensor()) {
        op.numbers[i - place] = static_cast<double>(x);
      } else {
        op.inputs[place] = input.kind == kRow ? view_of_rows(input.name, x, variables, type)
                                              : view(input.name, x, input.kind == kClasses ? shape : variables);
      }
    };
    (pass.template operator()<I>(std::get<I>(inputs)), ...);
    const int variant = Loss::variant(op.inputs, op.numbers);
    check(variant >= 0 && variant < Loss::kVariants, "", "the loss has no such variant");
    return compute(type, op, in_float, in_double, to.loss, to.scale, gradients[S].tensor...);
  };
  return run(std::make_index_sequence<kNumInputs<Loss>>(), std::make_index_sequence<kSlopes<Loss>>());
}

#define BFN_ADD(name, Loss) add<&loss_new<Loss, BFN_KERNEL(name)>>(m, #name);
BFN_OPERATORS(m) { BFN_ELEMENT_LOSSES(BFN_ADD) BFN_DISCRETE_LOSSES(BFN_ADD) }

}  // namespace
}  // namespace bfn::bindings
