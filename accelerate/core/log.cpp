#include "accelerate/core/log.h"

#include <cstdio>

namespace accelerate {

Log::Log(LogSink sink, int64_t rank) : sink_(std::move(sink)), prefix_("[rank " + std::to_string(rank) + "] ") {}

void Log::write(LogLevel level, std::string_view line) const {
  if (!sink_ && level == LogLevel::kInfo) return;
  const std::string text = prefix_ + std::string(line);
  if (sink_) return sink_(level, text);
  std::fprintf(stderr, "accelerate: %s\n", text.c_str());
}

}  // namespace accelerate
