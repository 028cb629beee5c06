// The ops of discretised data whose output distribution is a mixture of normals. A thread handles one variable, and its
// components one after the other.
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
// The caller reduces the losses.
template <class T>
void mixture_loss(const DiscretisedLoss& op, const Chunks& chunks);

}  // namespace bfn
