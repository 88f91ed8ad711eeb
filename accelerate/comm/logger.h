#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "accelerate/comm/group.h"
#include "accelerate/core/log.h"

namespace accelerate {

/// Where a call stands. A wrapper of yours takes one as its last parameter, `CallSite site = CallSite::here()`, and
/// hands it on, so that its own callers are named.
struct CallSite {
  const char* file = "";
  int line = 0;
  const char* function = "";
  static constexpr CallSite here(const char* file = __builtin_FILE(), int line = __builtin_LINE(),
                                 const char* function = __builtin_FUNCTION()) {
    return {file, line, function};
  }
};

/// What a Logger hands to its sink; the texts live as long as the call.
struct LogRecord {
  LogLevel level = LogLevel::kInfo;
  std::string_view name = {};     ///< the logger's
  std::string_view message = {};  ///< "[RANK 0] text"
  CallSite site = {};
};

struct LoggerOptions {
  std::optional<LogLevel> log_level = {};  ///< the least that is logged; `ACCELERATE_LOG_LEVEL`; default: warnings
  std::function<void(const LogRecord&)> sink = {};  ///< empty: lines to `.log_sink`, or to standard error
};

struct LogOptions {
  bool main_process_only = true;
  bool in_order = false;  ///< one process after the other, all of them: a collective, whatever the line above says
};

/// Messages of a training program, once for all processes unless asked otherwise, with the rank in front. Copies are
/// the same logger. Source: `accelerate.logging.get_logger`.
class Logger {
 public:
  struct Place {
    std::string name;
    LogLevel level = LogLevel::kWarning;
    Group group = {};
    LogSink lines = {};
  };
  Logger(Place place, std::function<void(const LogRecord&)> sink);

  /// Nothing happens below the logger's level. Throws CommError when a rank is lost before its turn.
  void log(LogLevel level, std::string_view message, LogOptions options = {}, CallSite site = CallSite::here()) const;
  void debug(std::string_view message, LogOptions options = {}, CallSite site = CallSite::here()) const {
    log(LogLevel::kDebug, message, options, site);
  }
  void info(std::string_view message, LogOptions options = {}, CallSite site = CallSite::here()) const {
    log(LogLevel::kInfo, message, options, site);
  }
  void warning(std::string_view message, LogOptions options = {}, CallSite site = CallSite::here()) const {
    log(LogLevel::kWarning, message, options, site);
  }
  void error(std::string_view message, LogOptions options = {}, CallSite site = CallSite::here()) const {
    log(LogLevel::kError, message, options, site);
  }
  void critical(std::string_view message, LogOptions options = {}, CallSite site = CallSite::here()) const {
    log(LogLevel::kCritical, message, options, site);
  }
  /// A warning that is logged the first time only, for each message and options. Thread-safe, as all of these are.
  void warning_once(std::string_view message, LogOptions options = {}, CallSite site = CallSite::here()) const;

  const std::string& name() const;
  LogLevel level() const;
  /// Whether a message of this level would be logged: ask before computing an expensive one.
  bool is_enabled_for(LogLevel level) const { return level >= this->level(); }

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace accelerate
