#include "accelerate/core/env.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>

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

namespace {

std::string upper(const std::string& name) {
  std::string result = name;
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) { return std::toupper(c); });
  return result;
}

}  // namespace

EnvironmentScope patch_environment(const std::map<std::string, std::string>& variables) {
  for (const auto& [name, value] : variables) {
    if (!name.empty() && name.find('=') == std::string::npos) continue;
    throw ConfigError({.place = "patch_environment",
                       .what = "This is no name of an environment variable",
                       .got = "\"" + name + "\"",
                       .expected = "a name without =",
                       .remedy = "Correct it"});
  }
  const Environment before = Environment::of_process();
  EnvironmentScope scope;
  for (const auto& [name, value] : variables) {
    scope.before_.emplace(upper(name), before.text(upper(name)));
    setenv(upper(name).c_str(), value.c_str(), /*replace=*/1);
  }
  return scope;
}

EnvironmentScope clear_environment() {
  EnvironmentScope scope;
  const Environment now = Environment::of_process();
  for (const auto& [name, value] : now.all()) {
    scope.before_.emplace(name, value);
    unsetenv(name.c_str());
  }
  scope.family_ = "";
  return scope;
}

EnvironmentScope purge_accelerate_environment() {
  EnvironmentScope scope;
  scope.family_ = "ACCELERATE_";
  const Environment now = Environment::of_process();
  for (const auto& [name, value] : now.all()) {
    if (name.starts_with(*scope.family_)) scope.before_.emplace(name, value);
  }
  return scope;
}

EnvironmentScope::EnvironmentScope(EnvironmentScope&& other) noexcept
    : before_(std::exchange(other.before_, {})), family_(std::exchange(other.family_, std::nullopt)) {}

EnvironmentScope::~EnvironmentScope() {
  if (family_) {
    const Environment now = Environment::of_process();
    for (const auto& [name, value] : now.all()) {
      if (name.starts_with(*family_) && !before_.contains(name)) unsetenv(name.c_str());
    }
  }
  for (const auto& [name, value] : before_) {
    if (value) {
      setenv(name.c_str(), value->c_str(), /*replace=*/1);
    } else {
      unsetenv(name.c_str());
    }
  }
}

void set_variables(const std::map<std::string, std::string>& variables) {
  for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), /*replace=*/1);
}

void set_unless_set(const char* name, const char* value) { setenv(name, value, /*replace=*/0); }

}  // namespace accelerate
