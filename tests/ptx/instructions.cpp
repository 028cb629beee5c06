#include "instructions.h"

#include "table.h"

namespace ptx {

void Table::add(const std::string& pattern, const Row& row) {
  const size_t open = pattern.find('{');
  if (open == std::string::npos) {
    const auto [added, fresh] = rows_.emplace(pattern, row);
    if (!fresh) fail("two rows of the table are named " + pattern);
    added->second.base.name = &added->first;
    return;
  }
  const size_t close = pattern.find('}', open);
  for (size_t from = open + 1; from <= close;) {
    const size_t to = std::min(pattern.find(',', from), close);
    add(pattern.substr(0, open) + pattern.substr(from, to - from) + pattern.substr(close + 1), row);
    from = to + 1;
  }
}

const Row* Table::find(const std::string& name) const {
  const auto found = rows_.find(name);
  return found == rows_.end() ? nullptr : &found->second;
}

const Row* find_row(const std::string& name) {
  static const Table* table = [] {
    auto* made = new Table;
    add_integers(*made);
    add_floats(*made);
    add_conversions(*made);
    add_movement(*made);
    add_matrices(*made);
    return made;
  }();
  return table->find(name);
}

}  // namespace ptx
