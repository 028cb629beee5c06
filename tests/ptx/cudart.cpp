// Replaces the CUDA runtime for objects that nvcc made. The interpreter of this folder runs their kernels.
// The PTX comes from the fat binaries in these objects.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "interface.h"

namespace bfn {
void* current_stream() { return nullptr; }
// Null makes the caller allocate by torch. The interpreter knows only torch's memory.
void* allocate_pages(size_t) { return nullptr; }
void free_pages(void*, size_t) {}
}  // namespace bfn

namespace {

struct Dim {
  unsigned x, y, z;
};

// The structures of a fat binary (fatbinary_section.h of the toolkit). A wrapper points to a header. The
// entries come after the header.
struct Wrapper {
  int magic, version;
  const unsigned char* data;
  void* unused;
};
struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;
};
struct Entry {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
};
constexpr int kWrapper = 0x466243b1;
constexpr uint32_t kHeader = 0xba55ed50;
constexpr uint16_t kPtx = 1;

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "cudart of tests/ptx: %s\n", why.c_str());
  std::abort();
}

// Returns the PTX of a fat binary. The first entry must be this PTX, uncompressed.
const char* text_of(const Wrapper& wrapper) {
  Header header;
  Entry entry;
  std::memcpy(&header, wrapper.data, sizeof(header));
  if (wrapper.magic != kWrapper || header.magic != kHeader) give_up("a fat binary with a wrong magic number");
  std::memcpy(&entry, wrapper.data + header.header_bytes, sizeof(entry));
  const char* text = reinterpret_cast<const char*>(wrapper.data) + header.header_bytes + entry.header_bytes;
  if (entry.kind != kPtx || !std::strstr(text, ".version")) give_up("a fat binary without plain PTX");
  return text;
}

// A fat binary and its module, which is loaded at the first launch.
struct Binary {
  const Wrapper* wrapper;
  void* module = nullptr;

  void* loaded() {
    if (!module) module = ptx_load(text_of(*wrapper));
    return module;
  }
};
struct Function {
  Binary* binary;
  std::string name;
  void* module = nullptr;  // replaces the module of the binary if it is not null
};

// Returns the position and the length of a kernel's text, which begins at ".entry".
std::pair<size_t, size_t> span_of(const std::string& text, const std::string& kernel) {
  const size_t begin = text.find(".entry " + kernel + "("), end = text.find("\n}\n", begin);
  if (begin == std::string::npos || end == std::string::npos) give_up("no kernel " + kernel);
  return {begin, end + 3 - begin};
}
// All kernels, by the address of the host function that stands for the kernel. The map is made when the first kernel is
// registered.
std::map<const void*, Function>& functions() {
  static auto* all = new std::map<const void*, Function>;
  return *all;
}

struct Configuration {
  Dim grid, block;
  size_t shared;
  void* stream;
};
thread_local Configuration configuration;
thread_local std::string error;

constexpr int kSuccess = 0, kUnknownError = 999;

}  // namespace

extern "C" {
#pragma GCC visibility push(default)
void** __cudaRegisterFatBinary(void* wrapper) {
  return reinterpret_cast<void**>(new Binary{static_cast<const Wrapper*>(wrapper)});
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterFunction(void** binary, const char* host, char*, const char* name, int, void*, void*, void*, void*,
                            int*) {
  functions()[host] = {.binary = reinterpret_cast<Binary*>(binary), .name = name};
}
// The interpreter finds variables in the PTX, and the host does not ask for them.
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(Dim grid, Dim block, size_t shared, void* stream) {
  configuration = {grid, block, shared, stream};
  return kSuccess;
}
int __cudaPopCallConfiguration(Dim* grid, Dim* block, size_t* shared, void** stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *stream = configuration.stream;
  return kSuccess;
}
int __cudaGetKernel(const void** kernel, const void* host) {
  *kernel = host;
  return kSuccess;
}
int __cudaLaunchKernel(const void* kernel, Dim grid, Dim block, void** arguments, size_t shared, void*) {
  const Function& f = functions().at(kernel);
  void* module = f.module ? f.module : f.binary->loaded();
  const unsigned grid_size[] = {grid.x, grid.y, grid.z}, block_size[] = {block.x, block.y, block.z};
  if (module && ptx_launch(module, f.name.c_str(), grid_size, block_size, arguments, shared)) return kSuccess;
  error = ptx_error();
  return kUnknownError;
}

int cudaGetLastError() { return error.empty() ? kSuccess : kUnknownError; }
const char* cudaGetErrorString(int) {
  static thread_local std::string last;
  last.swap(error);
  error.clear();
  return last.c_str();
}

// Returns the names of all registered kernels, one in each line.
const char* cudart_kernels() {
  static std::string names;
  names.clear();
  for (const auto& [host, f] : functions()) names += f.name + "\n";
  return names.c_str();
}

// The next launch of a kernel parses its PTX again, unless cudart_replace has replaced the kernel.
void cudart_reload() {
  for (auto& [host, f] : functions()) f.binary->module = nullptr;
}
// Returns the PTX of a kernel.
const char* cudart_text(const char* kernel) {
  static std::string kernel_text;
  for (const auto& [host, f] : functions()) {
    if (f.name != kernel) continue;
    const std::string text = text_of(*f.binary->wrapper);
    const auto [begin, count] = span_of(text, kernel);
    kernel_text = text.substr(begin, count);
    return kernel_text.c_str();
  }
  return nullptr;
}
// Replaces the PTX of a kernel; null restores the kernel's own PTX.
void cudart_replace(const char* kernel, const char* other) {
  for (auto& [host, f] : functions()) {
    if (f.name != kernel) continue;
    f.module = nullptr;
    if (!other) continue;
    std::string text = text_of(*f.binary->wrapper);
    const auto [begin, count] = span_of(text, kernel);
    f.module = ptx_load(text.replace(begin, count, other).c_str());
    if (!f.module) give_up(ptx_error());
  }
}
#pragma GCC visibility pop
}
