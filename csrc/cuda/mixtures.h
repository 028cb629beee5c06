// The ops of discretised data for an output distribution that is a mixture of normals. A thread handles one variable,
// and its components one after the other.
#pragma once

#include "../ops/discretised.h"
#include "loss.h"
#include "nodes.h"

namespace bfn {

template <class T>
void mixture_expected_value(const DiscretisedExpectedValue& op);
template <class T>
void mixture_choose(const struct Choose& op);
template <class T>
void mixture_update(const DiscretisedUpdate& op);
// Launches the kernel of the losses. The caller calls finish_losses.
template <class T>
void mixture_loss(const DiscretisedLoss& op, const Chunks& chunks);

}  // namespace bfn
