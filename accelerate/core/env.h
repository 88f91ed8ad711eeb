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

/// Changes to this process's environment, undone when the guard ends. For one thread at a time: another that reads the
/// environment meanwhile has undefined behaviour, as with setenv().
class [[nodiscard]] EnvironmentScope {
 public:
  EnvironmentScope(EnvironmentScope&& other) noexcept;
  EnvironmentScope& operator=(EnvironmentScope&&) = delete;
  ~EnvironmentScope();

 private:
  friend EnvironmentScope patch_environment(const std::map<std::string, std::string>& variables);
  friend EnvironmentScope clear_environment();
  friend EnvironmentScope purge_accelerate_environment();
  EnvironmentScope() = default;
  std::map<std::string, std::optional<std::string>> before_;  ///< nothing: it was not set
  std::optional<std::string> family_;                         ///< others that start like this are removed
};

/// Sets variables, whose names become upper case. Throws ConfigError, with nothing changed, for a name that is empty or
/// has a `=`. Source: `accelerate.utils.patch_environment`.
EnvironmentScope patch_environment(const std::map<std::string, std::string>& variables);
/// Removes every variable. Source: `accelerate.utils.clear_environment`.
EnvironmentScope clear_environment();
/// Changes nothing, but `ACCELERATE_*` variables that are changed, set or unset before it ends are then as they were.
/// Source: `accelerate.utils.purge_accelerate_environment`.
EnvironmentScope purge_accelerate_environment();

/// For settings of other libraries that they take from the environment alone; what the user has set stays.
void set_unless_set(const char* name, const char* value);
/// For a process that the library made and that is to be told its place.
void set_variables(const std::map<std::string, std::string>& variables);

}  // namespace accelerate
