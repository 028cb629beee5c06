// What the last operator of this thread refused, for a torch that forgets the type of an exception: from 2.15 on it
// makes a RuntimeError of every one.
#pragma once

#include <string>

namespace bfn {

enum class Refused { kNothing, kValue, kIndex };

struct Refusal {
  Refused kind = Refused::kNothing;
  std::string what;
};

inline thread_local Refusal last_refusal;

}  // namespace bfn
