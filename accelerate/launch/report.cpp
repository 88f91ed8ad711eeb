#include <csignal>
#include <cstring>

#include "accelerate/launch/launcher.h"
#include "accelerate/launch/signals.h"

namespace accelerate::internal::launch {
namespace {

std::string seconds(std::chrono::milliseconds time) {
  std::string text = std::to_string(time.count() / 1000);
  if (time.count() % 1000 != 0) text += "." + std::to_string(1000 + time.count() % 1000).substr(1);
  return text + " s";
}

std::string how(const Ending& ending) {
  if (ending.signal == 0) return "exit code " + std::to_string(ending.code);
  const char* meaning = ::sigdescr_np(ending.signal);
  return signal_name(ending.signal) + (meaning == nullptr ? "" : std::string(" (") + meaning + ")");
}

std::string hint(const Failure& failure) {
  if (failure.address_in_use) {
    return " The port for rank 0 was taken by another program: start again, or choose one with --main-process-port.";
  }
  // Nobody here sent it.
  if (failure.ending.signal == SIGKILL) {
    return " If nobody killed it, memory ran out: look for the process in `dmesg`.";
  }
  return "";
}

std::string about_failure(const Failure& failure, int64_t world_size) {
  std::string text = "[launch] Rank " + std::to_string(failure.rank) + " of " + std::to_string(world_size) +
                     " (process " + std::to_string(failure.process) + ") was the first to fail: got " +
                     how(failure.ending) + ", expected exit code 0." + hint(failure);
  if (failure.last_lines.empty()) return text + " It wrote nothing to standard error.\n";
  text += " The last it wrote to standard error:\n";
  for (const std::string& line : failure.last_lines) text += "  | " + line + "\n";
  return text;
}

}  // namespace

std::string report(const LaunchResult& result, const LaunchPlan& plan) {
  std::string text;
  if (result.signal) {
    text = "[launch] Ended by " + signal_name(*result.signal) + ", which the launcher received and handed on to " +
           (plan.ranks.size() == 1 ? "its rank" : "all " + std::to_string(plan.ranks.size()) + " ranks here") + ".\n";
  }
  if (result.failure) text += about_failure(*result.failure, plan.world_size);
  const auto grace = result.signal ? plan.grace_after_signal : plan.grace_after_failure;
  if (result.killed > 0) {
    text += "[launch] " + std::to_string(result.killed) + (result.killed == 1 ? " rank" : " ranks") +
            " had to be ended with SIGKILL, not having ended within " + seconds(grace) + " (--grace-period).\n";
  }
  for (const int64_t rank : result.remaining) {
    text += "[launch] Rank " + std::to_string(rank) +
            " did not end after SIGKILL: the kernel holds it. Look at its "
            "/proc/<process>/stack.\n";
  }
  return text;
}

}  // namespace accelerate::internal::launch
