#include "accelerate/launch/forkable.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "accelerate/core/error.h"

namespace accelerate::internal::launch {
namespace {

constexpr const char* kRemedy =
    "Call launch() first thing in main(), before anything of LibTorch computes, or start the program with "
    "accelerate-cpp launch";

}  // namespace

std::vector<std::string> other_threads() {
  const std::string own = std::to_string(::syscall(SYS_gettid));
  std::vector<std::string> names;
  std::error_code gone;  // a thread may end while it is looked at
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", gone)) {
    if (entry.path().filename() == own) continue;
    std::string name;
    if (std::getline(std::ifstream(entry.path() / "comm"), name)) names.push_back(name);
  }
  return names;
}

bool uses_gpu() {
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", gone)) {
    const auto target = std::filesystem::read_symlink(entry.path(), gone);
    if (!gone && target.string().starts_with("/dev/nvidia")) return true;
  }
  return false;
}

void require_no_rank(const Environment& environment) {
  if (environment.flag("FORK_LAUNCHED").value_or(false) || environment.integer("WORLD_SIZE").value_or(1) > 1) {
    throw ConfigError({.place = "launch",
                       .what = "This process is a rank already",
                       .got = "RANK=" + environment.text("RANK").value_or("") +
                              ", WORLD_SIZE=" + environment.text("WORLD_SIZE").value_or("") + " in its environment",
                       .expected = "a process that no launcher started",
                       .remedy = "Call the function itself where a launcher has started the ranks"});
  }
}

void require_forkable(const Environment& environment) {
  require_no_rank(environment);
  if (uses_gpu()) {
    throw ConfigError({.place = "launch",
                       .what = "CUDA is in use, and no copy of this process could use it",
                       .got = "open files of the GPU driver",
                       .expected = "a process that has not asked for GPUs",
                       .remedy = kRemedy});
  }
  const std::vector<std::string> threads = other_threads();
  if (threads.empty()) return;
  std::string names;
  for (size_t i = 0; i < threads.size() && i < 5; ++i) names += (i == 0 ? "" : ", ") + threads[i];
  if (threads.size() > 5) names += ", ...";
  throw ConfigError({.place = "launch",
                     .what = "Other threads run, and no copy of this process would have them",
                     .got = std::to_string(threads.size()) + " besides this one (" + names + ")",
                     .expected = "none",
                     .remedy = kRemedy});
}

}  // namespace accelerate::internal::launch
