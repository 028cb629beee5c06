// The table's rows for memory, for control flow, and for collective operations of a warp's lanes.
#include "table.h"

namespace ptx {
namespace {

struct ElementType {
  const char* name;
  uint8_t bytes;
  bool is_signed = false;
};
constexpr ElementType kStored[] = {{"u8", 1},       {"u16", 2},       {"u32", 4},       {"u64", 8}, {"b8", 1},
                                   {"b16", 2},      {"b32", 4},       {"b64", 8},       {"f32", 4}, {"f64", 8},
                                   {"s8", 1, true}, {"s16", 2, true}, {"s32", 4, true}, {"s64", 8}};
constexpr std::pair<const char*, uint8_t> kCounts[] = {{"", 1}, {".v2", 2}, {".v4", 4}, {".v8", 8}};
constexpr std::pair<const char*, Space> kSpaces[] = {{"", Space::kGeneric},       {".global", Space::kGlobal},
                                                     {".shared", Space::kShared}, {".shared::cta", Space::kShared},
                                                     {".local", Space::kLocal},   {".param", Space::kParam}};

void add_memory(Table& table) {
  for (const auto& [space_name, space] : kSpaces) {
    for (const auto& [count_name, count] : kCounts) {
      for (const ElementType& type : kStored) {
        const std::string suffix = std::string(count_name) + "." + type.name;
        Instruction i{.space = space, .bytes = type.bytes, .count = count, .sign_extends = type.is_signed};
        i.run = load;
        const std::string cached = space == Space::kGlobal ? "{,.nc}" : "";
        table.add(std::string("ld") + space_name + cached + suffix, {.form = Form::kLoad, .base = i});
        i.run = store;
        table.add(std::string("st") + space_name + "{,.wb}" + suffix, {.form = Form::kStore, .base = i});
      }
    }
    const std::string names = std::string("cvta") + space_name, to = std::string("cvta.to") + space_name;
    if (space == Space::kGeneric || space_name == std::string(".shared::cta")) continue;
    table.add(names + ".u64", {.sources = 1, .base = {.run = to_generic, .space = space}});
    table.add(to + ".u64", {.sources = 1, .base = {.run = from_generic, .space = space}});
  }
  for (const auto& [name, count] : {std::pair<const char*, uint8_t>{"x1", 1}, {"x2", 2}, {"x4", 4}}) {
    Instruction i{.run = move_matrices, .kind = Kind::kCollective, .space = Space::kShared, .count = count};
    i.of_whole_warp = true;
    for (const auto& [suffix, transposed] : {std::pair{"", false}, {".trans", true}}) {
      i.transposed = transposed;
      const std::string rest = std::string(name) + suffix + "{.shared,.shared::cta}.b16";
      table.add("ldmatrix.sync.aligned.m8n8." + rest, {.form = Form::kLoad, .base = i});
      table.add("stmatrix.sync.aligned.m8n8." + rest, {.form = Form::kStore, .base = i});
    }
  }
}

// Moves a register, or packs or unpacks the elements of a vector.
void move(Warp& warp, const Instruction& i, Lanes lanes) {
  if (i.num_sources == 1 && i.num_results == 1) {
    const uint64_t *a = warp.source(i.sources[0]), mask = ~uint64_t{0} >> (64 - 8 * i.bytes);
    uint64_t* d = warp.result(i.results[0]);
    return for_lanes(lanes, [&](int lane) { d[lane] = a[lane] & mask; });
  }
  const int from = i.bytes / i.num_sources, to = i.bytes / i.num_results;
  for_lanes(lanes, [&](int lane) {
    char whole[16] = {};
    for (int k = 0; k < i.num_sources; ++k) {
      std::memcpy(whole + k * from, &warp.source(i.sources[k])[lane], std::min(from, 8));
    }
    for (int k = 0; k < i.num_results; ++k) {
      uint64_t element = 0;
      std::memcpy(&element, whole + k * to, std::min(to, 8));
      warp.result(i.results[k])[lane] = element;
    }
  });
}

void add_moves(Table& table) {
  for (const ElementType& type : kStored) {
    table.add(std::string("mov.") + type.name, {.form = Form::kMove, .base = {.run = move, .bytes = type.bytes}});
  }
  table.add("mov.pred", {.form = Form::kMove, .base = {.run = move, .bytes = 1}});
}

void add_control(Table& table) {
  const auto add = [&](const char* pattern, Form form, Kind kind) {
    table.add(pattern, {.form = form, .base = {.run = nothing, .kind = kind}});
  };
  add("bra{,.uni}", Form::kLabel, Kind::kBranch);
  add("brx.idx{,.uni}", Form::kBranchTable, Kind::kBranchTable);
  add("call{,.uni}", Form::kCall, Kind::kCall);
  add("ret{,.uni}", Form::kNone, Kind::kReturn);
  add("exit", Form::kNone, Kind::kExit);
  add("trap", Form::kNone, Kind::kTrap);
  add("bar.sync", Form::kBarrier, Kind::kBarrier);
  add("barrier.sync{,.aligned}", Form::kBarrier, Kind::kBarrier);
  for (const auto& [name, combine] : {std::pair{"or", Combine::kOr}, std::pair{"and", Combine::kAnd}}) {
    table.add(std::string("bar{,rier}{,.cta}.red{,.aligned}.") + name + ".pred",
              {.form = Form::kBarrier, .base = {.kind = Kind::kBarrier, .combine = combine}});
  }
  // Blocks run one after the other, and their lanes see every write at once. So fences do nothing, and a kernel that
  // lacks one is not noticed. The same holds for wgmma.fence.
  add("{membar,fence.acq_rel}.{cta,gl,gpu}", Form::kNone, Kind::kPlain);
  add("fence.proxy.async.shared::cta", Form::kNone, Kind::kPlain);
}

enum class Shuffle { kUp, kDown, kBfly, kIdx };

// The first byte of c is the last lane to read from, or the first one for kUp. Its second byte is a mask: the bits of a
// lane's number that distinguish the segments of a warp.
template <Shuffle kShuffle>
void shuffle(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t *a = warp.source(i.sources[0]), *b = warp.source(i.sources[1]), *c = warp.source(i.sources[2]);
  uint64_t read[kLanes] = {}, valid[kLanes] = {};
  for_lanes(lanes, [&](int lane) {
    const int bound = c[lane] & 31, segment = c[lane] >> 8 & 31, by = b[lane] & 31;
    const int first = lane & segment, last = first | (bound & ~segment);
    const int from = kShuffle == Shuffle::kUp     ? lane - by
                     : kShuffle == Shuffle::kDown ? lane + by
                     : kShuffle == Shuffle::kBfly ? lane ^ by
                                                  : first | (by & ~segment);
    valid[lane] = kShuffle == Shuffle::kUp ? from >= last : from <= last;
    const int source = valid[lane] ? from : lane;
    if (!(lanes >> source & 1)) fail(warp, i, lane, "a shuffle reads a lane that takes no part");
    read[lane] = static_cast<uint32_t>(a[source]);
  });
  uint64_t *to = warp.result(i.results[0]), *is_valid = warp.result(i.num_results > 1 ? i.results[1] : -1);
  for_lanes(lanes, [&](int lane) {
    is_valid[lane] = valid[lane];
    to[lane] = read[lane];
  });
}

// Gives all lanes one result, which F computes from the sources of all of them.
template <class F>
void gather(Warp& warp, const Instruction& i, Lanes lanes) {
  const uint64_t result = F{}(warp.source(i.sources[0]), i, lanes);
  uint64_t* to = warp.result(i.results[0]);
  for_lanes(lanes, [&](int lane) { to[lane] = result; });
}
template <class F>
Row gathering(F) {
  return {.sources = 2, .base = {.run = gather<F>, .kind = Kind::kCollective}};
}

// F computes the result from two masks: the lanes that vote true, and all lanes that take part.
template <class F>
Row vote(F) {
  return gathering([](const uint64_t* a, const Instruction& i, Lanes lanes) {
    return uint64_t{F{}(where_true(a, lanes) ^ (i.negated ? lanes : 0), lanes)};
  });
}

template <class T, class F>
Row reduction(F) {
  return gathering([](const uint64_t* a, const Instruction&, Lanes lanes) {
    T result = static_cast<T>(a[__builtin_ctz(lanes)]);
    for_lanes(lanes & (lanes - 1), [&](int lane) { result = F{}(result, static_cast<T>(a[lane])); });
    return to_bits<T>(result);
  });
}

void add_collectives(Table& table) {
  const auto add_shuffle = [&](const char* name, Run run) {
    table.add(std::string("shfl.sync.") + name + ".b32",
              {.sources = 4, .base = {.run = run, .kind = Kind::kCollective}});
  };
  add_shuffle("up", shuffle<Shuffle::kUp>);
  add_shuffle("down", shuffle<Shuffle::kDown>);
  add_shuffle("bfly", shuffle<Shuffle::kBfly>);
  add_shuffle("idx", shuffle<Shuffle::kIdx>);
  table.add("vote.sync.any.pred", vote([](Lanes votes, Lanes) { return votes != 0; }));
  table.add("vote.sync.all.pred", vote([](Lanes votes, Lanes lanes) { return votes == lanes; }));
  table.add("vote.sync.ballot.b32", vote([](Lanes votes, Lanes) { return votes; }));
  table.add("redux.sync.add.{u32,s32}", reduction<uint32_t>([](auto a, auto b) { return a + b; }));
  table.add("redux.sync.min.u32", reduction<uint32_t>([](auto a, auto b) { return smaller(a, b); }));
  table.add("redux.sync.max.u32", reduction<uint32_t>([](auto a, auto b) { return larger(a, b); }));
  table.add("redux.sync.min.s32", reduction<int32_t>([](auto a, auto b) { return smaller(a, b); }));
  table.add("redux.sync.max.s32", reduction<int32_t>([](auto a, auto b) { return larger(a, b); }));
  table.add("redux.sync.and.b32", reduction<uint32_t>([](auto a, auto b) { return a & b; }));
  table.add("redux.sync.or.b32", reduction<uint32_t>([](auto a, auto b) { return a | b; }));
  table.add("redux.sync.xor.b32", reduction<uint32_t>([](auto a, auto b) { return a ^ b; }));
  table.add("bar.warp.sync",
            {.form = Form::kSources, .sources = 1, .base = {.run = nothing, .kind = Kind::kCollective}});
}

}  // namespace

void add_movement(Table& table) {
  add_memory(table);
  add_moves(table);
  add_control(table);
  add_collectives(table);
}

}  // namespace ptx
