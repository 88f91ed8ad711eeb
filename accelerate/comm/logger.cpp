#include "accelerate/comm/logger.h"

#include <mutex>
#include <set>
#include <tuple>
#include <utility>

namespace accelerate {

struct Logger::State {
  State(Place own_place, std::function<void(const LogRecord&)> own_sink)
      : place(std::move(own_place)),
        sink(std::move(own_sink)),
        prefix("[RANK " + std::to_string(place.group.rank()) + "] ") {}
  const Place place;
  const std::function<void(const LogRecord&)> sink;
  const std::string prefix;
  std::mutex mutex;
  std::set<std::tuple<std::string, bool, bool>, std::less<>> warned;
};

Logger::Logger(Place place, std::function<void(const LogRecord&)> sink)
    : state_(std::make_shared<State>(std::move(place), std::move(sink))) {}

const std::string& Logger::name() const { return state_->place.name; }
LogLevel Logger::level() const { return state_->place.level; }

void Logger::log(LogLevel level, std::string_view message, LogOptions options, CallSite site) const {
  const bool enabled = is_enabled_for(level);
  const Group& group = state_->place.group;
  const auto write = [&] {
    const std::string text = state_->prefix + std::string(message);
    if (state_->sink) return state_->sink({.level = level, .name = name(), .message = text, .site = site});
    emit(state_->place.lines, level, std::string(name_of(level)) + " " + name() + ": " + text);
  };
  if (!options.in_order) {
    if (enabled && (!options.main_process_only || group.rank() == 0)) write();
    return;
  }
  // Also by a process whose level is above the message's: those of the others may be lower, and they wait for it.
  for (int64_t rank = 0; rank < group.size(); ++rank) {
    if (enabled && rank == group.rank()) write();
    group.barrier();
  }
}

void Logger::warning_once(std::string_view message, LogOptions options, CallSite site) const {
  {
    const std::lock_guard lock(state_->mutex);
    if (!state_->warned.emplace(message, options.main_process_only, options.in_order).second) return;
  }
  warning(message, options, site);
}

}  // namespace accelerate
