// ptxas fuses a product into a sum if only this sum uses the product, and no branch or label lies between them. Both
// are then computed with one rounding. This code does not fuse a product if a factor is overwritten before the sum.
#include <algorithm>
#include <unordered_map>

#include "instructions.h"
#include "machine.h"

namespace ptx {
namespace {

enum class Role { kNone, kProduct, kSum, kDifference };

// An instruction that names a rounding mode is not fused.
Role role_of(const Instruction& i) {
  const std::string& name = *i.name;
  if (name != "mul.f32" && name != "mul.f64" && name != "add.f32" && name != "add.f64" && name != "sub.f32" &&
      name != "sub.f64") {
    return Role::kNone;
  }
  return name[0] == 'm' ? Role::kProduct : name[0] == 'a' ? Role::kSum : Role::kDifference;
}

void fuse(Instruction& sum, const Instruction& product, int which) {
  const bool is_double = sum.name->back() == '4', differs = role_of(sum) == Role::kDifference;
  sum.run = fused(is_double, differs && which == 1, differs && which == 0);
  sum.sources = {product.sources[0], product.sources[1], sum.sources[1 - which]};
  sum.num_sources = 3;
}

}  // namespace

void contract(Kernel& kernel, int first, const std::vector<int>& labels) {
  if (!options.contract) return;
  const int last = static_cast<int>(kernel.code.size());
  std::unordered_map<int, int> written, read;  // how often each register is written and read
  for (int place = first; place < last; ++place) {
    const Instruction& i = kernel.code[place];
    for (int k = 0; k < i.num_results; ++k) ++written[i.results[k]];
    for (int k = 0; k < i.num_sources; ++k) ++read[i.sources[k]];
  }
  std::unordered_map<int, int> products;  // the place of each product since the last branch or label, by register
  for (int place = first; place < last; ++place) {
    Instruction& i = kernel.code[place];
    const bool straight = i.kind == Kind::kPlain || i.kind == Kind::kCollective;
    if (!straight || std::find(labels.begin(), labels.end(), place) != labels.end()) products.clear();
    const Role role = role_of(i);
    for (int which : {0, 1}) {
      if (role != Role::kSum && role != Role::kDifference) break;
      const auto found = products.find(i.sources[which]);
      if (found == products.end() || read[i.sources[which]] != 1) continue;
      fuse(i, kernel.code[found->second], which);
      break;
    }
    // Drops products whose factors this instruction overwrites, since a later sum would read the new values.
    for (int k = 0; k < i.num_results; ++k) {
      if (written[i.results[k]] == 1) continue;
      std::erase_if(products, [&](const auto& product) {
        const auto& factors = kernel.code[product.second].sources;
        return factors[0] == i.results[k] || factors[1] == i.results[k];
      });
    }
    if (role == Role::kProduct && i.guard < 0 && written[i.results[0]] == 1) products[i.results[0]] = place;
  }
}

}  // namespace ptx
