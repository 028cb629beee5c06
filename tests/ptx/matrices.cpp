// The table's rows for products of matrices, and for asynchronous copies.
#include <array>
#include <vector>

#include "table.h"

namespace ptx {
namespace {

// The rows of a matrix a, or the columns of a matrix b, for a product a·b with a depth of 16.
using Lines = std::vector<std::array<double, 16>>;

// Reads a matrix of numbers of 16 bits. A register holds two of them. place(lane, register, which) returns the line and
// the depth of each.
template <class T, class F>
Lines from_registers(const Warp& warp, const int* registers, int count, F&& place) {
  Lines found(16);
  for (int k = 0; k < count; ++k) {
    const uint64_t* reg = warp.source(registers[k]);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int which = 0; which < 2; ++which) {
        const auto [line, depth] = place(lane, k, which);
        found[line][depth] = T{static_cast<uint16_t>(reg[lane] >> 16 * which)}.wide();
      }
    }
  }
  return found;
}

// Reads the 16 rows of a that four registers hold.
template <class T>
Lines rows_of(const Warp& warp, const int* registers) {
  return from_registers<T>(warp, registers, 4, [](int lane, int k, int which) {
    return std::pair{lane / 4 + k % 2 * 8, lane % 4 * 2 + which + k / 2 * 8};
  });
}

// Rounds a sum to float32 as tensor cores might. Neither the order of the terms nor the rounding is documented. So this
// takes the largest error that one rounding can make: it rounds towards zero.
float rounded_towards_zero(double sum) {
  const RoundingMode rounding(FE_TOWARDZERO);
  volatile double exact = sum;
  return canonical(static_cast<float>(exact));
}

// Sets d = a·b + c. a has 16 rows. A lane has numbers of row lane / 4 and of the row 8 below it, and two of each 8
// columns. The registers c are the instruction's last sources. Without them, d = a·b.
void set_sums(Warp& warp, const Instruction& i, const Lines& a, const Lines& b, bool with_c) {
  std::vector<std::array<float, kLanes>> sums(i.num_results);
  for (int k = 0; k < i.num_results; ++k) {
    const uint64_t* c = warp.source(i.sources[i.num_sources - i.num_results + k]);
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto &row = a[lane / 4 + k / 2 % 2 * 8], &column = b[k / 4 * 8 + lane % 4 * 2 + k % 2];
      double sum = with_c ? from_bits<float>(c[lane]) : 0.0;
      for (int depth = 0; depth < 16; ++depth) sum += row[depth] * column[depth];
      sums[k][lane] = rounded_towards_zero(sum);
    }
  }
  for (int k = 0; k < i.num_results; ++k) {
    uint64_t* d = warp.result(i.results[k]);
    for (int lane = 0; lane < kLanes; ++lane) d[lane] = to_bits(sums[k][lane]);
  }
}

// A product by one warp, where b has 8 columns.
template <class T>
void multiply(Warp& warp, const Instruction& i, Lanes lanes) {
  if (lanes != kAllLanes) fail(warp, i, 0, "a matrix operation of a part of a warp");
  const Lines b = from_registers<T>(warp, &i.sources[4], 2, [](int lane, int k, int which) {
    return std::pair{lane / 4, lane % 4 * 2 + which + k * 8};
  });
  set_sums(warp, i, rows_of<T>(warp, i.sources.data()), b, true);
}

// A matrix in shared memory, as the 64 bits of a matrix descriptor describe it (PTX ISA, "Matrix Descriptor Format").
// Its numbers have 16 bits. Rows of `pitch` bytes lie behind one another in blocks of 8 rows. If the matrix is
// transposed, such a row has a part of the lines for one depth; otherwise it has the depths of one line.
class SharedMatrix {
 public:
  SharedMatrix(Warp& warp, const Instruction& i, uint64_t descriptor, bool transposed)
      : warp_(warp), i_(i), descriptor_(descriptor), transposed_(transposed) {
    const int mode = descriptor >> 62;
    if (mode == 0 || (descriptor >> 49 & 7) != 0) fail(warp, i, 0, "a matrix without a swizzle, or with a base offset");
    pitch_ = 256 >> mode;
  }

  // The address of an element. A swizzle permutes the pieces of 16 bytes of a row.
  uint64_t at(int line, int depth) const {
    const uint64_t start = field(0), leading = field(16), stride = field(32);
    uint64_t at = start;
    if (transposed_) {
      at += 2 * line / pitch_ * leading + 2 * line % pitch_ + depth % 8 * pitch_ + depth / 8 * stride;
    } else {
      at += line / 8 * stride + line % 8 * pitch_ + 2 * depth;
    }
    return at ^ (at >> 7 & (pitch_ / 16 - 1)) << 4;
  }

  // Calls f(line, depth, address) for some lines, after a check that the warp may read there.
  template <class F>
  void for_each_element(int first, int count, F&& f) const {
    auto& memory = warp_.block->shared;
    for (int line = 0; line < count; ++line) {
      for (int depth = 0; depth < 16; ++depth) {
        const uint64_t address = at(first + line, depth);
        if (address + 2 > memory.size()) fail(warp_, i_, 0, "a matrix out of the bounds of shared memory");
        f(line, depth, address);
      }
    }
  }

  void check(int first, int count) const {
    if (!options.races) return;
    auto& memory = warp_.block->shared;
    for_each_element(first, count, [&](int, int, uint64_t address) {
      if (!memory.is_written(address, 2)) fail(warp_, i_, 0, "read of shared memory that nobody wrote");
      if (!memory.read(address, 2, warp_.index)) fail(warp_, i_, 0, "race in shared memory");
    });
  }

  template <class T>
  Lines lines(int first, int count) const {
    Lines found(count);
    for_each_element(first, count, [&](int line, int depth, uint64_t address) {
      uint16_t bits;
      std::memcpy(&bits, warp_.block->shared.data() + address, 2);
      found[line][depth] = T{bits}.wide();
    });
    return found;
  }

 private:
  Warp& warp_;
  const Instruction& i_;
  const uint64_t descriptor_;
  const bool transposed_;
  uint64_t pitch_;

  // A field of 14 bits, in units of 16 bytes.
  uint64_t field(int bit) const { return (descriptor_ >> bit & 0x3fff) << 4; }
};

// The sources of a product by four warps are a, b, whether d is added, two factors of 1 or −1, whether the matrices in
// shared memory are transposed, and d. a is in four registers or in shared memory. b is in shared memory.
struct GroupProduct {
  GroupProduct(Warp& of, const Instruction& instruction) : warp(of), i(instruction) {
    const Dim size = warp.block->size;
    if (size.x * size.y * size.z % (4 * kLanes)) fail(warp, i, 0, "a product of fewer than four warps");
    if (!a_in_registers && last != 6) fail(warp, i, 0, "another number of operands");
    if (source(b_at + 2) != 1 || source(b_at + 3) != 1) fail(warp, i, 0, "a product with another sign");
  }

  uint64_t source(int k) const { return warp.source(i.sources[k])[0]; }
  SharedMatrix a(uint64_t descriptor) const { return {warp, i, descriptor, source(last - 1) != 0}; }
  SharedMatrix b(uint64_t descriptor) const { return {warp, i, descriptor, source(last) != 0}; }

  Warp& warp;
  const Instruction& i;
  const int last = i.num_sources - i.num_results - 1;
  const bool a_in_registers = last == 8;
  const int b_at = a_in_registers ? 4 : 1;
  const int columns = 2 * i.num_results, first_row = warp.index % 4 * 16;
};

template <class T>
void finish_product(Warp& warp, const PendingProduct& pending) {
  const Instruction& i = *pending.instruction;
  const GroupProduct product(warp, i);
  const Lines a = product.a_in_registers ? rows_of<T>(warp, i.sources.data())
                                         : product.a(pending.a).lines<T>(product.first_row, 16);
  set_sums(warp, i, a, product.b(pending.b).lines<T>(0, product.columns), pending.adds);
}

template <class T>
void begin_product(Warp& warp, const Instruction& i, Lanes) {
  const GroupProduct product(warp, i);
  const uint64_t a = product.source(0), b = product.source(product.b_at);
  if (!product.a_in_registers) product.a(a).check(product.first_row, 16);
  product.b(b).check(0, product.columns);
  const bool adds = (product.source(product.b_at + 1) & 1) != 0;
  warp.products.push_back({&i, finish_product<T>, warp.product_groups, a, b, adds});
}

void close_products(Warp& warp, const Instruction&, Lanes) { ++warp.product_groups; }

// Finishes the products of all groups that the warp has closed, except the last ones. The instruction says how many
// these are.
void wait_for_products(Warp& warp, const Instruction& i, Lanes) {
  const uint64_t last = warp.source(i.sources[0])[0];
  std::erase_if(warp.products, [&](const PendingProduct& pending) {
    if (pending.group + last >= warp.product_groups) return false;
    pending.finish(warp, pending);
    return true;
  });
}

void add_group_products(Table& table) {
  const auto add = [&](const std::string& name, Form form, int sources, Instruction base) {
    base.kind = Kind::kCollective;
    base.of_whole_warp = true;
    table.add("wgmma." + name, {.form = form, .sources = sources, .base = base});
  };
  for (int columns = 8; columns <= 128; columns += 8) {
    const auto count = static_cast<uint8_t>(columns / 2);
    const std::string name = "mma_async.sync.aligned.m64n" + std::to_string(columns) + "k16.f32.";
    add(name + "bf16.bf16", Form::kGroupProduct, 0, {.run = begin_product<BFloat16>, .count = count});
    add(name + "f16.f16", Form::kGroupProduct, 0, {.run = begin_product<Half>, .count = count});
  }
  add("fence.sync.aligned", Form::kNone, 0, {.run = nothing});
  add("commit_group.sync.aligned", Form::kNone, 0, {.run = close_products});
  add("wait_group.sync.aligned", Form::kSources, 1, {.run = wait_for_products});
}

}  // namespace

void add_matrices(Table& table) {
  each(table, kNarrow, "mma.sync.aligned.m16n8k16.row.col.f32.#.#.f32", []<class T>(Type<T>) {
    Instruction i{.run = multiply<T>, .kind = Kind::kCollective, .of_whole_warp = true};
    return Row{.sources = 10, .base = i};
  });
  add_group_products(table);
  table.add("cp.async.{ca,cg}.shared{,::cta}.global",
            {.form = Form::kCopy, .base = {.run = begin_copy, .space = Space::kGlobal}});
  table.add("cp.async.commit_group", {.form = Form::kNone, .base = {.run = close_group}});
  table.add("cp.async.wait_group", {.form = Form::kSources, .sources = 1, .base = {.run = wait_for_groups}});
}

}  // namespace ptx
