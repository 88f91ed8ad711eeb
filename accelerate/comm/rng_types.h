#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace accelerate {

/// What a user chooses as `rng_types`: `{"torch", "generator"}`; unset means the default. An empty list, which
/// synchronises nothing, is `std::vector<std::string>{}`.
class RngTypes {
 public:
  RngTypes() = default;
  RngTypes(std::initializer_list<std::string> names) : names_(names) {}
  RngTypes(std::vector<std::string> names) : names_(std::move(names)) {}  // NOLINT: `.rng_types = my_names`
  const std::optional<std::vector<std::string>>& names() const { return names_; }

 private:
  std::optional<std::vector<std::string>> names_;
};

}  // namespace accelerate
