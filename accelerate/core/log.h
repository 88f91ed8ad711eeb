#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace accelerate {

enum class LogLevel { kInfo, kWarning };

/// The least that is logged. `kDefault`: everything where there is a sink, else warnings.
enum class LogThreshold { kDefault, kInfo, kWarning, kNothing };

/// Receives one finished line, without a newline, already carrying the rank.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// One line at a time, with the rank in front; nothing is formatted unless somebody listens.
class Log {
 public:
  /// An empty sink means standard error for warnings and silence for the rest.
  Log(LogSink sink, int64_t rank, LogThreshold threshold = LogThreshold::kDefault);
  void info(std::string_view line) const { write(LogLevel::kInfo, line); }
  void warning(std::string_view line) const { write(LogLevel::kWarning, line); }

 private:
  void write(LogLevel level, std::string_view line) const;
  bool passes(LogLevel level) const;
  LogSink sink_;
  std::string prefix_;
  LogThreshold threshold_;
};

}  // namespace accelerate
