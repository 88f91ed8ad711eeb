#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace accelerate {

/// Environment variables as a value, so that everything decided from them can be decided again in a test.
class Environment {
 public:
  explicit Environment(std::map<std::string, std::string> variables) : variables_(std::move(variables)) {}
  /// A copy of this process's environment; the only place that reads it.
  static Environment of_process();

  const std::map<std::string, std::string>& all() const { return variables_; }
  std::optional<std::string> text(const std::string& name) const;
  /// Throws ConfigError if the variable is set to anything but an integer.
  std::optional<int64_t> integer(const std::string& name) const;
  /// True: `y yes t true on 1`, false: `n no f false off 0`, any case. Throws ConfigError for other text.
  /// Source: `accelerate.utils.str_to_bool`.
  std::optional<bool> flag(const std::string& name) const;

 private:
  std::map<std::string, std::string> variables_;
};

/// For settings of other libraries that they take from the environment alone; what the user has set stays.
void set_unless_set(const char* name, const char* value);

}  // namespace accelerate
