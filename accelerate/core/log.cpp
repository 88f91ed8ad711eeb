#include "accelerate/core/log.h"

#include <array>
#include <cctype>
#include <cstdio>

#include "accelerate/core/error.h"

namespace accelerate {
namespace {

constexpr std::array<const char*, 5> kNames{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"};

}  // namespace

LogLevel log_level_of(std::string_view text, std::string_view place) {
  std::string upper(text);
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  for (size_t level = 0; level < kNames.size(); ++level) {
    if (upper == kNames[level]) return static_cast<LogLevel>(level);
  }
  throw ConfigError({.place = std::string(place),
                     .what = "The level of logging is not known",
                     .got = "\"" + std::string(text) + "\"",
                     .expected = "debug, info, warning, error or critical",
                     .remedy = "Correct or unset it"});
}

const char* name_of(LogLevel level) { return kNames.at(static_cast<size_t>(level)); }

void emit(const LogSink& sink, LogLevel level, std::string_view line) {
  if (sink) return sink(level, line);
  std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}

Log::Log(LogSink sink, int64_t rank, std::optional<LogLevel> least)
    : sink_(std::move(sink)), prefix_("[rank " + std::to_string(rank) + "] "), least_(least) {}

bool Log::passes(LogLevel level) const {
  if (least_) return level >= *least_;
  return sink_ != nullptr || level >= LogLevel::kWarning;
}

void Log::write(LogLevel level, std::string_view line) const {
  if (passes(level)) emit(sink_, level, (sink_ ? "" : "accelerate: ") + prefix_ + std::string(line));
}

}  // namespace accelerate
