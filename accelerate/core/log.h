#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace accelerate {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kCritical };

/// "debug", "info", "warning", "error" or "critical", in any case. Throws ConfigError, at `place`, for other text.
LogLevel log_level_of(std::string_view text, std::string_view place);
/// "DEBUG", ...
const char* name_of(LogLevel level);

/// Receives one finished line, without a newline, already carrying the rank.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Hands a line to the sink; an empty one means standard error.
void emit(const LogSink& sink, LogLevel level, std::string_view line);

/// One line at a time, with the rank in front; nothing is formatted unless somebody listens.
class Log {
 public:
  /// An empty sink means standard error. `least` unset: a sink gets everything, standard error warnings.
  Log(LogSink sink, int64_t rank, std::optional<LogLevel> least = {});
  void info(std::string_view line) const { write(LogLevel::kInfo, line); }
  void warning(std::string_view line) const { write(LogLevel::kWarning, line); }
  const LogSink& sink() const { return sink_; }

 private:
  void write(LogLevel level, std::string_view line) const;
  bool passes(LogLevel level) const;
  LogSink sink_;
  std::string prefix_;
  std::optional<LogLevel> least_;
};

}  // namespace accelerate
