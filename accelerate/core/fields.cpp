#include "accelerate/core/fields.h"

#include <algorithm>
#include <ostream>

#include "accelerate/core/error.h"

namespace accelerate {

const Field& Fields::at(std::string_view name) const {
  std::string known;
  for (const Field& field : fields_) {
    if (field.name == name) return field;
    known += (known.empty() ? "" : ", ") + field.name;
  }
  throw UsageError({.place = "plan",
                    .what = "There is no such field",
                    .got = "\"" + std::string(name) + "\"",
                    .expected = "one of " + known,
                    .remedy = "Ask for one of these names"});
}

std::string Fields::text() const {
  size_t name_width = 0, value_width = 0;
  for (const Field& field : fields_) {
    name_width = std::max(name_width, field.name.size());
    value_width = std::max(value_width, field.value.size());
  }
  std::string out;
  for (const Field& field : fields_) {
    out += field.name + std::string(name_width - field.name.size() + 2, ' ');
    out += field.value + std::string(value_width - field.value.size() + 2, ' ');
    out += "(" + field.source + ")\n";
  }
  return out;
}

std::ostream& operator<<(std::ostream& out, const Fields& fields) { return out << fields.text(); }

}  // namespace accelerate
