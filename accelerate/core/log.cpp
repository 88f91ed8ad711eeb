#include "accelerate/core/log.h"

#include <cstdio>

namespace accelerate {

Log::Log(LogSink sink, int64_t rank, LogThreshold threshold)
    : sink_(std::move(sink)), prefix_("[rank " + std::to_string(rank) + "] "), threshold_(threshold) {}

bool Log::passes(LogLevel level) const {
  switch (threshold_) {
    case LogThreshold::kDefault:
      return sink_ != nullptr || level == LogLevel::kWarning;
    case LogThreshold::kInfo:
      return true;
    case LogThreshold::kWarning:
      return level == LogLevel::kWarning;
    case LogThreshold::kNothing:
      break;
  }
  return false;
}

void Log::write(LogLevel level, std::string_view line) const {
  if (!passes(level)) return;
  const std::string text = prefix_ + std::string(line);
  if (sink_) return sink_(level, text);
  std::fprintf(stderr, "accelerate: %s\n", text.c_str());
}

}  // namespace accelerate
