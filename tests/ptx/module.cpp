// Parses the text of a module: its tokens, and the declarations outside of functions.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>

#include "parser.h"

namespace ptx {
namespace {

bool in_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || std::strchr("_$%.", c); }

std::vector<Token> tokens_of(std::string_view text) {
  std::vector<Token> found;
  int line = 1;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    const auto skip_to = [&](std::string_view end) { at = std::min(text.find(end, at), text.size()); };
    if (c == '\n') ++line;
    if (std::isspace(static_cast<unsigned char>(c)) || c == '\0') {
      ++at;
    } else if (text.substr(at, 2) == "//") {
      skip_to("\n");
    } else if (text.substr(at, 2) == "/*") {
      const size_t begin = at;
      skip_to("*/");
      line += static_cast<int>(std::count(&text[begin], &text[at], '\n'));
      at = std::min(at + 2, text.size());
    } else if (c == '"') {
      const size_t begin = at++;
      skip_to("\"");
      found.push_back({text.substr(begin, ++at - begin), line});
    } else if (in_word(c)) {
      const size_t begin = at;
      while (at < text.size() && (in_word(text[at]) || text.substr(at, 2) == "::")) at += text[at] == ':' ? 2 : 1;
      found.push_back({text.substr(begin, at - begin), line});
      // These directives change nothing for the interpreter, and end at the end of the line.
      const std::string_view name = found.back().text;
      for (const char* idle : {".loc", ".file", ".version", ".target", ".address_size"}) {
        if (name == idle) {
          found.pop_back();
          skip_to("\n");
          break;
        }
      }
    } else {
      found.push_back({text.substr(at++, 1), line});
    }
  }
  found.push_back({"", line});
  return found;
}

// Returns the size in bytes of a type such as f32, or 0 if there is no such type.
int bytes_of(std::string_view type) {
  if (type == "pred") return 1;
  if (type == "f16x2" || type == "bf16x2") return 4;
  const size_t digits = type.find_first_of("0123456789");
  const std::string_view stem = type.substr(0, digits);
  if (digits == std::string_view::npos || (stem != "u" && stem != "s" && stem != "b" && stem != "f" && stem != "bf")) {
    return 0;
  }
  return std::atoi(std::string(type.substr(digits)).c_str()) / 8;
}

std::vector<Declared> declarations(Reader& reader) {
  std::vector<Declared> found;
  if (!reader.accept("(")) return found;
  while (!reader.accept(")")) {
    found.push_back(reader.declaration());
    reader.accept(",");
  }
  return found;
}

// Returns the initial values of a variable, each of `bytes` bytes.
std::vector<char> initial_values(Reader& reader, int bytes) {
  std::vector<char> data;
  int depth = 0;
  do {
    if (reader.accept("{")) {
      ++depth;
    } else if (reader.accept("}")) {
      --depth;
    } else if (!reader.accept(",")) {
      const uint64_t bits = reader.number();
      const char* from = reinterpret_cast<const char*>(&bits);
      data.insert(data.end(), from, from + bytes);
    }
  } while (depth > 0);
  return data;
}

}  // namespace

void Reader::bad(const std::string& what) const {
  fail("PTX line " + std::to_string((*tokens_)[std::min(at_, tokens_->size() - 1)].line) + ": " + what + " near '" +
       std::string(peek()) + "'");
}

void Reader::skip_braces() {
  int depth = 0;
  do {
    const std::string_view t = next();
    depth += t == "{";
    depth -= t == "}";
    if (t.empty()) bad("unbalanced braces");
  } while (depth > 0);
}

uint64_t Reader::number() {
  const bool negative = accept("-");
  const std::string t(next());
  if (!std::isdigit(static_cast<unsigned char>(t[0]))) bad("no number: " + t);
  const bool is_float = t.size() == 10 && (t[1] == 'f' || t[1] == 'F');
  const bool is_double = t.size() == 18 && (t[1] == 'd' || t[1] == 'D');
  if (t.find('.') != std::string::npos) bad("a decimal number");
  const uint64_t bits = is_float || is_double ? std::stoull(t.substr(2), nullptr, 16) : std::stoull(t, nullptr, 0);
  if (!negative) return bits;
  return is_float ? bits ^ 1u << 31 : is_double ? bits ^ uint64_t{1} << 63 : -bits;
}

Declared Reader::declaration() {
  Declared d;
  int bytes = 1, count = 1;
  while (!peek().empty() && peek()[0] == '.') {
    const std::string_view t = next();
    if (t == ".align") {
      d.align = static_cast<int>(number());
    } else if (t == ".v2" || t == ".v4") {
      count = t[2] - '0';
    } else if (const int size = bytes_of(t.substr(1))) {
      bytes = size;
    }  // other words, such as .ptr and .global, do not change the size
  }
  d.name = next();
  d.element_bytes = bytes;
  d.bytes = bytes * count;
  d.align = std::max(d.align, d.bytes);
  while (accept("[")) {
    if (accept("]")) {
      d.bytes = 0;  // the launch gives the size
    } else {
      d.bytes *= static_cast<int>(number());
      expect("]");
    }
  }
  return d;
}

Module::Module(std::string text) : text_(std::move(text)), tokens_(tokens_of(text_)) {
  Reader reader(tokens_, 0);
  while (!reader.peek().empty()) {
    const std::string_view t = reader.next();
    if (t == ".visible" || t == ".extern" || t == ".weak" || t == ".common") continue;
    if (t == ".section") {
      reader.next();
      reader.skip_braces();
    } else if (t == ".entry" || t == ".func") {
      Function f{.is_kernel = t == ".entry", .results = {}, .parameters = {}, .body = 0};
      while (reader.peek()[0] == '.') reader.next();
      if (!f.is_kernel) f.results = declarations(reader);
      const std::string name(reader.next());
      f.parameters = declarations(reader);
      while (reader.peek() != "{" && reader.peek() != ";") reader.next();  // skips .reqntid and similar directives
      if (reader.accept(";")) continue;
      f.body = reader.at();
      reader.skip_braces();
      functions_[name] = f;
    } else if (t == ".global" || t == ".const" || t == ".shared") {
      Variable v{reader.declaration(), nullptr};
      if (t != ".shared") {
        std::vector<char> data;
        if (reader.accept("=")) data = initial_values(reader, v.declared.element_bytes);
        const size_t size = std::max<size_t>(v.declared.bytes, data.size());
        statics_.emplace_back(new char[size + 64]());
        char* to = statics_.back().get();
        v.address = to + (64 - reinterpret_cast<uintptr_t>(to) % 64) % 64;
        std::memcpy(v.address, data.data(), data.size());
        global_memory().add(v.address, size);
      }
      reader.expect(";");
      variables_[v.declared.name] = v;
    } else {
      reader.bad("unknown outside of functions: " + std::string(t));
    }
  }
}

Kernel& Module::kernel(const std::string& name) {
  auto& parsed = parsed_[name];
  if (!parsed) {
    const auto found = functions_.find(name);
    if (found == functions_.end() || !found->second.is_kernel) fail("no kernel " + name);
    parsed = Parser(*this, name).parse();
  }
  return *parsed;
}

}  // namespace ptx
