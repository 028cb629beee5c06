#include "machine.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <numeric>
#include <random>

namespace ptx {

void fail(const Warp& warp, const Instruction& i, int lane, const std::string& what) {
  const Block& block = *warp.block;
  fail(what + ": " + *i.name + ", line " + std::to_string(i.line) + " of " + block.kernel.name + ", block " +
       std::to_string(block.linear) + ", thread " + std::to_string(warp.index * kLanes + lane));
}

Lanes RacedValues::propagate(const Instruction& i, Lanes lanes, Lanes group) {
  Lanes found = 0;
  for (int k = 0; k < i.num_sources; ++k) found |= i.sources[k] >= 0 ? lanes_[i.sources[k]] & lanes : 0;
  for (int k = 0; k < i.num_results; ++k) {
    if (i.results[k] >= 0) lanes_[i.results[k]] = (lanes_[i.results[k]] & ~lanes) | found;
  }
  const bool moves = i.kind == Kind::kPlain && i.num_results > 0;
  return (i.guard >= 0 ? lanes_[i.guard] & group : 0) | (moves ? 0 : found);
}

namespace {

uint64_t special(const Block& block, const std::string& name, int thread) {
  const unsigned lane = thread % kLanes, t = thread;
  const std::string stem = name.substr(0, name.find('.'));
  const auto part = [&](Dim d) { return name.back() == 'x' ? d.x : name.back() == 'y' ? d.y : d.z; };
  if (stem == "%tid") {
    return part({t % block.size.x, t / block.size.x % block.size.y, t / block.size.x / block.size.y});
  }
  if (stem == "%ctaid") return part(block.number);
  if (stem == "%ntid") return part(block.size);
  if (stem == "%nctaid") return part(block.grid);
  if (stem == "%laneid") return lane;
  if (stem == "%warpid") return t / kLanes;
  if (stem == "%lanemask_eq") return 1u << lane;
  if (stem == "%lanemask_lt") return (1u << lane) - 1;
  if (stem == "%lanemask_le") return (2u << lane) - 1;
  fail("no special register " + name);
}

// Runs the warps of a block. Of a warp's lanes, those at the lowest place in the code run first, until they reach the
// place of other lanes.
class Schedule {
 public:
  Schedule(Block& block, std::vector<Warp>& warps) : block_(block), warps_(warps), code_(block.kernel.code) {}

  void run() {
    begin();
    while (true) {
      bool progress = false, live = false, all_at_barrier = true;
      for (Warp& warp : warps_) {
        progress |= run(warp);
        live |= warp.live != 0;
        all_at_barrier &= (warp.live & ~warp.at_barrier) == 0;
      }
      if (!live) return;
      if (all_at_barrier) {
        open_barrier();
      } else if (!progress) {
        fail_at_first("not reached by every thread that it names");
      }
    }
  }

 private:
  Block& block_;
  std::vector<Warp>& warps_;
  const std::vector<Instruction>& code_;

  void begin() {
    const int threads = static_cast<int>(block_.size.x * block_.size.y * block_.size.z);
    for (Warp& warp : warps_) {
      const int count = std::min(kLanes, threads - warp.index * kLanes);
      warp.live = count == kLanes ? kAllLanes : (Lanes{1} << count) - 1;
      warp.waiting = warp.at_barrier = 0;
      warp.place.fill(0);
      warp.raced.begin(block_.kernel.num_registers);
      warp.copies.clear();
      warp.groups.fill(0);
      warp.products.clear();
      warp.product_groups = 0;
      warp.issued.assign(block_.kernel.executed.size(), 0);
      for (const auto& [reg, name] : block_.kernel.specials) {
        for (int lane = 0; lane < kLanes; ++lane) {
          warp.result(reg)[lane] = special(block_, name, warp.index * kLanes + lane);
        }
      }
      for (int reg : block_.kernel.return_registers) std::fill_n(warp.result(reg), kLanes, 0);
    }
    block_.shared.begin_block();
    begin_phase();
  }

  void begin_phase() {
    block_.shared.begin_phase();
    global_memory().begin_phase();
  }

  [[noreturn]] void fail_at_first(const std::string& what) {
    for (const Warp& warp : warps_) {
      if (warp.live) fail(warp, code_[warp.place[__builtin_ctz(warp.live)]], __builtin_ctz(warp.live), what);
    }
    fail(what);
  }

  static void move(Warp& warp, Lanes lanes, int to) {
    for_lanes(lanes, [&](int lane) { warp.place[lane] = to; });
  }

  // Runs a warp until no lane can go on. Returns whether anything ran.
  bool run(Warp& warp) {
    bool progress = false;
    while (const Lanes ready = warp.live & ~warp.waiting) {
      progress = true;
      int first = INT_MAX, next = INT_MAX;  // the lowest place, and the second lowest
      Lanes group = 0;
      for_each(ready, [&](int lane) { first = std::min(first, warp.place[lane]); });
      for_each(ready, [&](int lane) {
        if (warp.place[lane] == first) {
          group |= Lanes{1} << lane;
        } else {
          next = std::min(next, warp.place[lane]);
        }
      });
      run_group(warp, group, first, next);
    }
    return progress;
  }

  // Runs lanes that are at the same place, until they diverge or reach `limit`, where other lanes are.
  void run_group(Warp& warp, Lanes group, int place, int limit) {
    while (place < limit) {
      const Instruction& i = code_[place];
      Lanes lanes = group;
      if (i.guard >= 0) {
        const Lanes on = where_true(warp.result(i.guard), group);
        lanes = i.guard_negated ? group & ~on : on;
      }
      if (warp.raced.last_load()) refuse_raced_values(warp, i, lanes, group);
      if (options.count) {
        Executed& executed = block_.kernel.executed[place];
        ++executed.issues;
        ++warp.issued[place];
        executed.lanes += __builtin_popcount(lanes);
      }
      if (i.kind == Kind::kPlain || !lanes) {
        if (lanes) i.run(warp, i, lanes);
        ++place;
      } else if (i.kind == Kind::kBranch && lanes == group) {
        place = i.target;
        if (limit != INT_MAX) break;  // the branch may have passed other lanes
      } else {
        move(warp, group & ~lanes, place + 1);
        move(warp, lanes, place);
        return leave(warp, i, lanes);
      }
    }
    move(warp, group, place);
  }

  static void refuse_raced_values(Warp& warp, const Instruction& i, Lanes lanes, Lanes group) {
    const Lanes used = warp.raced.propagate(i, lanes, group);
    if (used) fail(warp, *warp.raced.last_load(), __builtin_ctz(used), kRaceBetweenWarps);
  }

  // Runs an instruction that is not plain, for lanes that are all at it.
  void leave(Warp& warp, const Instruction& i, Lanes lanes) {
    switch (i.kind) {
      case Kind::kBranch:
        return move(warp, lanes, i.target);
      case Kind::kBranchTable:
        return branch_by_table(warp, i, lanes);
      case Kind::kCall:
        return call(warp, i, lanes);
      case Kind::kReturn:
        if (i.target >= 0) return go_back(warp, i, lanes);
        [[fallthrough]];
      case Kind::kExit:
        return end(warp, lanes);
      case Kind::kTrap:
        fail(warp, i, __builtin_ctz(lanes), "trap");
      case Kind::kBarrier:
        warp.at_barrier |= lanes;
        warp.waiting |= lanes;
        return;
      case Kind::kCollective:
        warp.waiting |= lanes;
        return meet(warp, i);
      case Kind::kPlain:
        return;
    }
  }

  // Ends lanes. Other lanes no longer wait for them.
  void end(Warp& warp, Lanes lanes) {
    warp.live &= ~lanes;
    for_each(warp.live & warp.waiting & ~warp.at_barrier, [&](int lane) {
      if (warp.waiting >> lane & 1) meet(warp, code_[warp.place[lane]]);
    });
  }

  void branch_by_table(Warp& warp, const Instruction& i, Lanes lanes) {
    const auto& table = block_.kernel.branch_tables[i.target];
    const uint64_t* index = warp.source(i.sources[0]);
    for_each(lanes, [&](int lane) {
      const auto k = static_cast<uint32_t>(index[lane]);
      if (k >= table.size()) fail(warp, i, lane, "no such branch");
      warp.place[lane] = table[k];
    });
  }

  static void copy(Warp& warp, int lane, const std::vector<Copy>& copies) {
    for (const Copy& c : copies) std::memcpy(warp.memory_of(lane) + c.to, warp.memory_of(lane) + c.from, c.bytes);
  }

  // While a function runs, its return register holds the place after the call; otherwise it holds 0.
  void call(Warp& warp, const Instruction& i, Lanes lanes) {
    const Call& callee = block_.kernel.calls[i.target];
    uint64_t* back = warp.result(callee.return_register);
    for_each(lanes, [&](int lane) {
      if (back[lane]) fail(warp, i, lane, "a recursive call");
      copy(warp, lane, callee.arguments);
      back[lane] = warp.place[lane] + 1;
      warp.place[lane] = callee.first;
    });
  }

  void go_back(Warp& warp, const Instruction& i, Lanes lanes) {
    uint64_t* back = warp.result(i.target);
    for_each(lanes, [&](int lane) {
      warp.place[lane] = static_cast<int>(back[lane]);
      copy(warp, lane, block_.kernel.calls[code_[back[lane] - 1].target].results);
      back[lane] = 0;
    });
  }

  static Lanes mask_of(const Warp& warp, const Instruction& i, int lane) {
    return i.of_whole_warp ? kAllLanes : static_cast<Lanes>(warp.source(i.sources[i.num_sources - 1])[lane]);
  }

  // Runs a collective instruction for the lanes that wait at it with the same mask. All lanes of the mask that have not
  // ended must wait there.
  void meet(Warp& warp, const Instruction& i) {
    Lanes here = 0;
    for_each(warp.waiting & ~warp.at_barrier, [&](int lane) {
      if (&code_[warp.place[lane]] == &i) here |= Lanes{1} << lane;
    });
    while (here) {
      const Lanes mask = mask_of(warp, i, __builtin_ctz(here));
      Lanes meeting = 0;
      for_each(here, [&](int lane) {
        if (mask_of(warp, i, lane) == mask) meeting |= Lanes{1} << lane;
      });
      if (meeting & ~mask) fail(warp, i, __builtin_ctz(meeting & ~mask), "the mask leaves out a lane that takes part");
      if (meeting == (mask & warp.live)) {
        i.run(warp, i, meeting);
        warp.waiting &= ~meeting;
        for_each(meeting, [&](int lane) { ++warp.place[lane]; });
      }
      here &= ~meeting;
    }
  }

  // Lets all threads go on from the barrier at which they wait. The barrier may also combine votes.
  void open_barrier() {
    const Instruction* at = nullptr;
    bool any = false, all = true;
    for (Warp& warp : warps_) {
      for_each(warp.live, [&](int lane) {
        const Instruction& i = code_[warp.place[lane]];
        if (at && at != &i) fail(warp, i, lane, "threads of a block wait at different barriers");
        at = &i;
        if (i.num_results) {
          const bool vote = (warp.source(i.sources[i.num_sources - 1])[lane] & 1) != i.negated;
          any |= vote;
          all &= vote;
        }
      });
    }
    for (Warp& warp : warps_) {
      for_each(warp.live, [&](int lane) {
        if (at->num_results) warp.result(at->results[0])[lane] = at->combine == Combine::kOr ? any : all;
        ++warp.place[lane];
      });
      warp.waiting = warp.at_barrier = 0;
    }
    begin_phase();
  }
};

void check_limits(const Kernel& kernel, Dim grid, Dim size, size_t dynamic_shared) {
  const size_t most_shared = options.architecture >= 90 ? 227 << 10 : options.architecture >= 80 ? 163 << 10 : 96 << 10;
  const uint64_t threads = uint64_t{size.x} * size.y * size.z;
  const auto refuse = [&](const std::string& what) { fail(kernel.name + ": " + what); };
  if (threads == 0 || threads > 1024 || size.z > 64) refuse(std::to_string(threads) + " threads in a block");
  if (grid.x == 0 || grid.x > INT_MAX || grid.y - 1 >= 65535 || grid.z - 1 >= 65535) refuse("the grid is too large");
  if (static_cast<size_t>(kernel.shared_bytes) > 48 << 10) refuse("more than 48 KiB of static shared memory");
  const size_t shared = kernel.shared_bytes + dynamic_shared;
  if (shared > most_shared) refuse(std::to_string(shared) + " bytes of shared memory");
}

std::vector<unsigned> in_order(unsigned blocks) {
  std::vector<unsigned> numbers(blocks);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (options.order == Order::kBackward) std::reverse(numbers.begin(), numbers.end());
  if (options.order == Order::kShuffled) std::shuffle(numbers.begin(), numbers.end(), std::mt19937(blocks));
  return numbers;
}

}  // namespace

void launch(Kernel& kernel, Dim grid, Dim size, void* const* arguments, size_t dynamic_shared) {
  check_limits(kernel, grid, size, dynamic_shared);
  for (size_t k = 0; k < kernel.parameters.size(); ++k) {
    const auto [offset, bytes] = kernel.parameters[k];
    std::memcpy(kernel.parameter_memory.data() + offset, arguments[k], bytes);
  }
  Block block{.kernel = kernel, .size = size, .grid = grid, .number = {}, .linear = 0, .shared = {}};
  block.shared.resize(kernel.shared_bytes + dynamic_shared);
  std::vector<Warp> warps;
  for (int w = 0; w * kLanes < static_cast<int>(size.x * size.y * size.z); ++w) warps.emplace_back(block, w);
  const unsigned blocks = grid.x * grid.y * grid.z;
  global_memory().begin_launch(blocks);
  kernel.executed.assign(options.count ? kernel.code.size() : 0, {});
  for (unsigned number : in_order(blocks)) {
    block.linear = number;
    block.number = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    Schedule(block, warps).run();
    for (const Warp& warp : warps) keep_worst(kernel, warp);
  }
  collect(kernel);
}

}  // namespace ptx
