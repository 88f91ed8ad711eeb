#include "accelerate/launch/machine.h"

#include <sched.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace accelerate::internal::launch {
namespace {

int64_t usable_cores() {
  int64_t cores = 1;
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) cores = std::max(1, CPU_COUNT(&set));
  // "max 100000" without a quota, "150000 100000" for one core and a half.
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  int64_t quota = 0, period = 0;
  if (file >> quota >> period && quota > 0 && period > 0) {
    cores = std::clamp<int64_t>((quota + period - 1) / period, 1, cores);
  }
  return cores;
}

int64_t nvidia_devices() {
  constexpr std::string_view kName = "nvidia";
  int64_t count = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/dev", error)) {
    const std::string name = entry.path().filename().string();
    count += name.size() > kName.size() && name.starts_with(kName) &&
             std::all_of(name.begin() + kName.size(), name.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  }
  return count;
}

}  // namespace

Machine Machine::look() { return {.cores = usable_cores(), .gpus = nvidia_devices()}; }

}  // namespace accelerate::internal::launch
