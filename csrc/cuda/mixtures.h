// The ops of discretised data if the output distribution is a mixture of normals. A thread handles one variable, and
// loops over its components.
#pragma once

#include "../ops/discretised.h"
#include "loss.h"
#include "nodes.h"

namespace bfn {

template <class T>
void mixture_expected_value(const DiscretisedExpectedValue& op);
template <class T>
void mixture_choose(const Choose& op);
template <class T>
void mixture_update(const DiscretisedUpdate& op);
// Launches the kernel of the losses. The caller must then call finish_losses.
template <class T>
void mixture_loss(const DiscretisedLoss& op, const Chunks& chunks);

}  // namespace bfn
