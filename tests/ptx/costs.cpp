// Counts what kernels execute while options.count is set.
#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "machine.h"

namespace ptx {
namespace {

constexpr uint64_t kSector = 32, kBank = 4, kBanks = 32;

std::map<std::string, std::map<std::string, Executed>> totals;  // by kernel and name of the instruction

uint64_t rounded_up(uint64_t number, uint64_t unit) { return (number + unit - 1) / unit; }

// Returns the indices of the pieces of memory that the lanes reach.
std::set<uint64_t> pieces(const uint64_t* addresses, int64_t offset, Lanes lanes, uint64_t bytes, uint64_t piece) {
  std::set<uint64_t> found;
  for_each(lanes, [&](int lane) {
    const uint64_t begin = addresses[lane] + offset;
    for (uint64_t k = begin / piece; k * piece < begin + bytes; ++k) found.insert(k);
  });
  return found;
}

// In a pass each bank serves one word. Accesses of 8 or 16 bytes are served for a half or a quarter of the lanes at a
// time.
void count_shared(Executed& executed, const Instruction& i, Lanes lanes, const uint64_t* addresses, uint64_t bytes) {
  const int at_a_time = static_cast<int>(kLanes / std::max<uint64_t>(1, bytes / kBank));
  for (int first = 0; first < kLanes; first += at_a_time) {
    const Lanes served = lanes & (kAllLanes >> (kLanes - at_a_time) << first);
    std::array<uint64_t, kBanks> words{};
    const auto reached = pieces(addresses, i.offset, served, bytes, kBank);
    for (uint64_t word : reached) ++words[word % kBanks];
    executed.passes += *std::max_element(words.begin(), words.end());
    executed.least_passes += rounded_up(reached.size(), kBanks);
  }
}

}  // namespace

void Executed::add(const Executed& other) {
  issues += other.issues;
  lanes += other.lanes;
  sectors += other.sectors;
  least_sectors += other.least_sectors;
  passes += other.passes;
  least_passes += other.least_passes;
  worst += other.worst;
}

void count_access(const Warp& warp, const Instruction& i, Lanes lanes, const uint64_t* addresses, int bytes) {
  Kernel& kernel = warp.block->kernel;
  if (i.in_lane_memory || i.space == Space::kLocal || i.space == Space::kParam || !lanes) return;
  Executed& executed = kernel.executed[&i - kernel.code.data()];
  auto& memory = warp.block->shared;
  const uint64_t first = addresses[__builtin_ctz(lanes)] + i.offset;
  const bool within = first - reinterpret_cast<uintptr_t>(memory.data()) < memory.size();
  if (i.space == Space::kShared || (i.space == Space::kGeneric && within)) {
    return count_shared(executed, i, lanes, addresses, bytes);
  }
  executed.sectors += pieces(addresses, i.offset, lanes, bytes, kSector).size();
  executed.least_sectors += rounded_up(pieces(addresses, i.offset, lanes, bytes, 1).size(), kSector);
}

void keep_worst(Kernel& kernel, const Warp& warp) {
  uint64_t most = 0, issued = 0;
  for (const Executed& executed : kernel.executed) most += executed.worst;
  for (const uint32_t each : warp.issued) issued += each;
  if (issued <= most) return;
  for (size_t k = 0; k < kernel.executed.size(); ++k) kernel.executed[k].worst = warp.issued[k];
}

void collect(Kernel& kernel) {
  for (size_t k = 0; k < kernel.executed.size(); ++k) {
    if (kernel.executed[k].issues) totals[kernel.name][*kernel.code[k].name].add(kernel.executed[k]);
  }
  kernel.executed.clear();
}

std::string collected() {
  std::string lines;
  for (const auto& [kernel, instructions] : totals) {
    for (const auto& [name, e] : instructions) {
      lines += kernel + " " + name;
      for (uint64_t n : {e.issues, e.lanes, e.sectors, e.least_sectors, e.passes, e.least_passes, e.worst}) {
        lines += " " + std::to_string(n);
      }
      lines += "\n";
    }
  }
  totals.clear();
  return lines;
}

}  // namespace ptx
