#include "memory.h"

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace ptx {

GlobalMemory& global_memory() {
  static auto* memory = new GlobalMemory;  // outlives tensors that are freed at the end of the process
  return *memory;
}

void GlobalMemory::add(const void* begin, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto at = reinterpret_cast<uintptr_t>(begin);
  allocations_[at + bytes] = {.begin = at, .end = at + bytes, .writers = {}, .readers = {}, .histories = {}};
}

void GlobalMemory::remove(const void* begin) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = allocations_.upper_bound(reinterpret_cast<uintptr_t>(begin));
  if (found != allocations_.end() && found->second.begin == reinterpret_cast<uintptr_t>(begin))
    allocations_.erase(found);
}

Allocation* GlobalMemory::find(uintptr_t address, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = allocations_.upper_bound(address);
  return found != allocations_.end() && found->second.holds(address, bytes) ? &found->second : nullptr;
}

void GlobalMemory::begin_launch(uint64_t blocks) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (next_stamp_ + blocks + 1 > UINT32_MAX) {
    for (auto& [end, allocation] : allocations_) allocation.writers.clear(), allocation.readers.clear();
    next_stamp_ = 1;
  }
  first_stamp_ = next_stamp_;
  next_stamp_ += static_cast<uint32_t>(blocks) + 1;
}

bool GlobalMemory::touch(Allocation& allocation, uintptr_t address, size_t bytes, unsigned block, bool writes) {
  const uint32_t several = first_stamp_, own = first_stamp_ + 1 + block;
  if (allocation.writers.empty()) {
    allocation.writers.resize(allocation.end - allocation.begin);
    allocation.readers.resize(allocation.end - allocation.begin);
  }
  for (size_t at = address - allocation.begin, end = at + bytes; at < end; ++at) {
    uint32_t &writer = allocation.writers[at], &reader = allocation.readers[at];
    if (writer >= first_stamp_ && writer != own) return false;
    if (writes) {
      if (reader >= first_stamp_ && reader != own) return false;
      writer = own;
    } else {
      reader = reader < first_stamp_ || reader == own ? own : several;
    }
  }
  return true;
}

bool GlobalMemory::touch_in_block(Allocation& allocation, uintptr_t address, size_t bytes, int warp,
                                  const char* value) {
  if (allocation.histories.empty()) allocation.histories.resize(allocation.end - allocation.begin);
  ByteHistory* const histories = &allocation.histories[address - allocation.begin];
  const char* const current = reinterpret_cast<const char*>(address);
  for (size_t k = 0; k < bytes; ++k) {
    const bool changes = value && value[k] != current[k];
    if (value && !changes && !histories[k].is_written(phase_)) continue;
    if (!(value ? histories[k].write(phase_, warp, changes) : histories[k].read(phase_, warp))) return false;
  }
  return true;
}

void SharedMemory::resize(size_t bytes) {
  bytes_.resize(bytes);
  written_.resize(bytes);
  histories_.resize(bytes);
}

void SharedMemory::begin_block() {
  std::fill(bytes_.begin(), bytes_.end(), static_cast<char>(0xcd));
  std::fill(written_.begin(), written_.end(), false);
}

bool SharedMemory::is_written(size_t at, size_t bytes) const {
  return std::all_of(&written_[at], &written_[at] + bytes, [](char written) { return written; });
}

bool SharedMemory::read(size_t at, size_t bytes, int warp) {
  return std::all_of(&histories_[at], &histories_[at] + bytes, [&](ByteHistory& h) { return h.read(phase_, warp); });
}

bool SharedMemory::write(size_t at, size_t bytes, int warp, const char* value) {
  for (size_t k = at; k < at + bytes; ++k) {
    if (!histories_[k].write(phase_, warp, value[k - at] != bytes_[k])) return false;
    written_[k] = true;
  }
  return true;
}

namespace {

bool within(uintptr_t address, size_t bytes, const std::vector<char>& memory) {
  const auto begin = reinterpret_cast<uintptr_t>(memory.data());
  return begin <= address && address + bytes <= begin + memory.size();
}

// Resolves the addresses that an instruction accesses, and throws an error for an access that a GPU forbids.
class Accesses {
 public:
  Accesses(Warp& warp, const Instruction& i, size_t bytes, bool writes)
      : warp_(warp), i_(i), bytes_(bytes), writes_(writes) {}

  // Returns the address of a lane's access. `value` is what is to be written.
  char* at(int lane, uint64_t base, const char* value = nullptr) {
    const uint64_t address = base + i_.offset;
    if (i_.in_lane_memory || i_.space == Space::kLocal) return own(lane, address);
    if (i_.space == Space::kShared) return shared(lane, static_cast<uint32_t>(address), value);
    auto& memory = warp_.block->shared;
    const uint64_t in_shared = address - reinterpret_cast<uintptr_t>(memory.data());
    if (i_.space == Space::kGeneric && in_shared < memory.size()) return shared(lane, in_shared, value);
    if (address % bytes_) fail(warp_, i_, lane, "misaligned access");
    if (within(address, bytes_, warp_.block->kernel.parameter_memory)) return reinterpret_cast<char*>(address);
    if (i_.space == Space::kGeneric && within(address, bytes_, warp_.lane_memory)) {
      return own(lane, address - reinterpret_cast<uintptr_t>(warp_.memory_of(lane)));
    }
    return global(lane, address, value);
  }

 private:
  Warp& warp_;
  const Instruction& i_;
  const size_t bytes_;
  const bool writes_;
  Allocation* last_ = nullptr;

  char* own(int lane, uint64_t offset) {
    if (offset + bytes_ > static_cast<uint64_t>(warp_.block->kernel.lane_bytes)) {
      fail(warp_, i_, lane, "access out of the bounds of local memory");
    }
    return warp_.memory_of(lane) + offset;
  }

  char* shared(int lane, uint64_t at, const char* value) {
    auto& memory = warp_.block->shared;
    if (at + bytes_ > memory.size()) fail(warp_, i_, lane, "access out of the bounds of shared memory");
    if (at % bytes_) fail(warp_, i_, lane, "misaligned access to shared memory");
    if (options.races) {
      if (!writes_ && !memory.is_written(at, bytes_)) fail(warp_, i_, lane, "read of shared memory that nobody wrote");
      const bool sound = writes_ ? memory.write(at, bytes_, warp_.index, value) : memory.read(at, bytes_, warp_.index);
      if (!sound) fail(warp_, i_, lane, "race in shared memory");
    }
    return memory.data() + at;
  }

  char* global(int lane, uint64_t address, const char* value) {
    if (!last_ || !last_->holds(address, bytes_)) last_ = global_memory().find(address, bytes_);
    if (!last_) fail(warp_, i_, lane, "access out of the bounds of every tensor");
    if (options.races) refuse_races(lane, address, value);
    return reinterpret_cast<char*>(address);
  }

  void refuse_races(int lane, uint64_t address, const char* value) {
    const Block& block = *warp_.block;
    const auto several = [](Dim d, unsigned most) { return d.x * d.y * d.z > most; };
    if (several(block.grid, 1) && !global_memory().touch(*last_, address, bytes_, block.linear, writes_)) {
      fail(warp_, i_, lane, "race between blocks");
    }
    if (several(block.size, kLanes) && !global_memory().touch_in_block(*last_, address, bytes_, warp_.index, value)) {
      if (writes_) fail(warp_, i_, lane, kRaceBetweenWarps);
      warp_.raced.record(i_, lane);
    }
  }
};

uint64_t with_sign(uint64_t bits, int bytes) {
  const int rest = 64 - 8 * bytes;
  return static_cast<uint64_t>(static_cast<int64_t>(bits << rest) >> rest);
}

}  // namespace

void load(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t* base = warp.source(i.sources[0]);
  Accesses accesses(warp, i, i.bytes * i.count, false);
  if (options.count) count_access(warp, i, lanes, base, i.bytes * i.count);
  for_lanes(lanes, [&](int lane) {
    const char* from = accesses.at(lane, base[lane]);
    uint64_t elements[8];
    for (int k = 0; k < i.count; ++k) {
      elements[k] = 0;
      std::memcpy(&elements[k], from + k * i.bytes, i.bytes);
      if (i.sign_extends) elements[k] = with_sign(elements[k], i.bytes);
    }
    for (int k = 0; k < i.count; ++k) warp.result(i.results[k])[lane] = elements[k];
  });
}

void store(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t* base = warp.source(i.sources[0]);
  Accesses accesses(warp, i, i.bytes * i.count, true);
  if (options.count) count_access(warp, i, lanes, base, i.bytes * i.count);
  for_lanes(lanes, [&](int lane) {
    char value[64];
    for (int k = 0; k < i.count; ++k) std::memcpy(value + k * i.bytes, &warp.source(i.sources[1 + k])[lane], i.bytes);
    char* to = accesses.at(lane, base[lane], value);
    std::memcpy(to, value, i.bytes * i.count);
  });
}

namespace {

uint64_t window(Warp& warp, Space space, int lane) {
  switch (space) {
    case Space::kShared:
      return reinterpret_cast<uintptr_t>(warp.block->shared.data());
    case Space::kLocal:
      return reinterpret_cast<uintptr_t>(warp.memory_of(lane));
    default:
      return 0;
  }
}

// Returns the instruction that writes the bytes that `copy` has read.
Instruction writing(const Instruction& copy) {
  Instruction to = copy;
  to.space = Space::kShared;
  to.offset = copy.offset_to;
  return to;
}

}  // namespace

// Lane 8 m + r has the address of row r of matrix m. Each lane has two numbers of each matrix. They belong to row
// lane / 4 or, if transposed, to column lane / 4.
void move_matrices(Warp& warp, const Instruction& i, Lanes lanes) {
  const bool stores = i.num_results == 0;
  if (lanes != kAllLanes) fail(warp, i, 0, "a matrix operation of a part of a warp");
  const uint64_t* base = warp.source(i.sources[0]);
  Accesses accesses(warp, i, 16, stores);
  for (int m = 0; m < i.count; ++m) {
    for (int row = 0; row < 8; ++row) {
      const auto half = [&](int column) -> uint16_t* {
        const int lane = i.transposed ? column * 4 + row / 2 : row * 4 + column / 2;
        const int which = i.transposed ? row % 2 : column % 2;
        uint64_t* reg = stores ? const_cast<uint64_t*>(warp.source(i.sources[1 + m])) : warp.result(i.results[m]);
        return reinterpret_cast<uint16_t*>(&reg[lane]) + which;
      };
      const int lane = 8 * m + row;
      uint16_t numbers[8];
      if (stores) {
        for (int column = 0; column < 8; ++column) numbers[column] = *half(column);
        std::memcpy(accesses.at(lane, base[lane], reinterpret_cast<char*>(numbers)), numbers, sizeof(numbers));
      } else {
        std::memcpy(numbers, accesses.at(lane, base[lane]), sizeof(numbers));
        for (int column = 0; column < 8; ++column) *half(column) = numbers[column];
      }
    }
  }
}

// Reads the source at once. Overwrites the destination by a pattern, since no thread may read there until the lane has
// waited for the copy and a barrier has followed.
void begin_copy(Warp& warp, const Instruction& i, Lanes lanes) {
  const Instruction to = writing(i);
  const uint64_t *at = warp.source(i.sources[0]), *base = warp.source(i.sources[1]);
  const uint64_t* size = i.num_sources > 2 ? warp.source(i.sources[2]) : nullptr;
  Accesses reads(warp, i, i.bytes, false), writes(warp, to, i.bytes, true);
  Lanes reading = 0;
  for_each(lanes, [&](int lane) {
    const auto wanted = size ? static_cast<uint32_t>(size[lane]) : i.bytes;
    if (wanted != 0 && wanted != i.bytes) fail(warp, i, lane, "a copy of a part of its bytes");
    PendingCopy copy{.instruction = &i, .lane = lane, .to = at[lane], .group = warp.groups[lane], .value = {}};
    if (wanted) std::memcpy(copy.value.data(), reads.at(lane, base[lane]), i.bytes);
    if (wanted) reading |= Lanes{1} << lane;
    std::memset(writes.at(lane, at[lane], copy.value.data()), 0xcd, i.bytes);
    warp.copies.push_back(copy);
  });
  if (options.count) count_access(warp, i, reading, base, i.bytes);
}

void close_group(Warp& warp, const Instruction&, Lanes lanes) {
  for_lanes(lanes, [&](int lane) { ++warp.groups[lane]; });
}

// Does the copies of all groups that a lane has closed, except the last ones. The instruction says how many these are.
void wait_for_groups(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t* last = warp.source(i.sources[0]);
  std::erase_if(warp.copies, [&](const PendingCopy& copy) {
    const int lane = copy.lane;
    if (!(lanes >> lane & 1) || copy.group + last[lane] >= warp.groups[lane]) return false;
    const Instruction to = writing(*copy.instruction);
    char* const destination = Accesses(warp, to, to.bytes, true).at(lane, copy.to, copy.value.data());
    std::memcpy(destination, copy.value.data(), to.bytes);
    return true;
  });
}

void to_generic(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t* from = warp.source(i.sources[0]);
  uint64_t* to = warp.result(i.results[0]);
  for_lanes(lanes, [&](int lane) { to[lane] = from[lane] + window(warp, i.space, lane); });
}
void from_generic(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t* from = warp.source(i.sources[0]);
  uint64_t* to = warp.result(i.results[0]);
  for_lanes(lanes, [&](int lane) { to[lane] = from[lane] - window(warp, i.space, lane); });
}

}  // namespace ptx
