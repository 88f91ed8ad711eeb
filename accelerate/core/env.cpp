#include "accelerate/core/env.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "accelerate/core/error.h"

namespace accelerate {

Environment Environment::of_process() {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view line(*entry);
    const size_t equals = line.find('=');
    if (equals != std::string_view::npos) variables.emplace(line.substr(0, equals), line.substr(equals + 1));
  }
  return Environment(std::move(variables));
}

std::optional<std::string> Environment::text(const std::string& name) const {
  const auto found = variables_.find(name);
  if (found == variables_.end()) return std::nullopt;
  return found->second;
}

std::optional<int64_t> Environment::integer(const std::string& name) const {
  const auto value = text(name);
  if (!value) return std::nullopt;
  int64_t number = 0;
  const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), number);
  if (error != std::errc() || end != value->data() + value->size()) {
    throw ConfigError({.place = name,
                       .what = "The environment variable is not an integer",
                       .got = "\"" + *value + "\"",
                       .expected = "digits, such as " + name + "=1",
                       .remedy = "Correct or unset it"});
  }
  return number;
}

std::optional<bool> Environment::flag(const std::string& name) const {
  constexpr std::array<std::string_view, 6> kTrue{"y", "yes", "t", "true", "on", "1"};
  constexpr std::array<std::string_view, 6> kFalse{"n", "no", "f", "false", "off", "0"};
  const auto value = text(name);
  if (!value) return std::nullopt;
  std::string lower = *value;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (std::find(kTrue.begin(), kTrue.end(), lower) != kTrue.end()) return true;
  if (std::find(kFalse.begin(), kFalse.end(), lower) != kFalse.end()) return false;
  throw ConfigError({.place = name,
                     .what = "The environment variable is not a yes or no",
                     .got = "\"" + *value + "\"",
                     .expected = "one of y yes t true on 1 n no f false off 0",
                     .remedy = "Correct or unset it"});
}

void set_unless_set(const char* name, const char* value) { setenv(name, value, /*replace=*/0); }

}  // namespace accelerate
