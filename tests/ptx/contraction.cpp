// ptxas fuses products: one that is used once, by a sum of the same straight run of code, is rounded with it.
#include <algorithm>
#include <unordered_map>

#include "instructions.h"
#include "machine.h"

namespace ptx {
namespace {

enum class Part { kNone, kProduct, kSum, kDifference };

// Instructions that say how to round are left alone.
Part part_of(const Instruction& i) {
  const std::string& name = *i.name;
  if (name != "mul.f32" && name != "mul.f64" && name != "add.f32" && name != "add.f64" && name != "sub.f32" &&
      name != "sub.f64") {
    return Part::kNone;
  }
  return name[0] == 'm' ? Part::kProduct : name[0] == 'a' ? Part::kSum : Part::kDifference;
}

void fuse(Instruction& sum, const Instruction& product, int which) {
  const bool is_double = sum.name->back() == '4', differs = part_of(sum) == Part::kDifference;
  sum.run = fused(is_double, differs && which == 1, differs && which == 0);
  sum.sources = {product.sources[0], product.sources[1], sum.sources[1 - which]};
  sum.num_sources = 3;
}

}  // namespace

void contract(Kernel& kernel, int first, const std::vector<int>& labels) {
  if (!options.contract) return;
  const int last = static_cast<int>(kernel.code.size());
  std::unordered_map<int, int> written, read;  // how often, by register
  for (int place = first; place < last; ++place) {
    const Instruction& i = kernel.code[place];
    for (int k = 0; k < i.num_results; ++k) ++written[i.results[k]];
    for (int k = 0; k < i.num_sources; ++k) ++read[i.sources[k]];
  }
  std::unordered_map<int, int> products;  // of the straight run so far: where each register was made
  for (int place = first; place < last; ++place) {
    Instruction& i = kernel.code[place];
    const bool straight = i.kind == Kind::kPlain || i.kind == Kind::kTogether;
    if (!straight || std::find(labels.begin(), labels.end(), place) != labels.end()) products.clear();
    const Part part = part_of(i);
    if (part == Part::kProduct && i.guard < 0 && written[i.results[0]] == 1) products[i.results[0]] = place;
    if (part != Part::kSum && part != Part::kDifference) continue;
    for (int which : {0, 1}) {
      const auto found = products.find(i.sources[which]);
      if (found == products.end() || read[i.sources[which]] != 1) continue;
      fuse(i, kernel.code[found->second], which);
      break;
    }
  }
}

}  // namespace ptx
