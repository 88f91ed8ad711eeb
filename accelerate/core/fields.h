#pragma once

#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace accelerate {

/// One effective setting: its name, its value as text, and where the value came from.
struct Field {
  std::string name;
  std::string value;
  std::string source;  ///< "argument", "environment NAME", "default", or the reason for a derived value
};

/// A printable list of settings, in the order in which they were decided.
class Fields {
 public:
  void add(Field field) { fields_.push_back(std::move(field)); }
  /// Throws UsageError, listing the names, when there is no such field.
  const Field& at(std::string_view name) const;
  const std::vector<Field>& all() const { return fields_; }
  /// One aligned line a field: `name  value  (source)`.
  std::string text() const;

 private:
  std::vector<Field> fields_;
};

std::ostream& operator<<(std::ostream& out, const Fields& fields);

}  // namespace accelerate
