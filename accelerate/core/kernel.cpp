#include "accelerate/core/kernel.h"

#include <sys/utsname.h>

#include <array>
#include <charconv>
#include <string_view>

namespace accelerate {
namespace {

constexpr std::array<int, 3> kRecommended{5, 5, 0};

/// The first three numbers of "5.4.0-35-generic"; nothing where there are fewer.
std::optional<std::array<int, 3>> version_of(std::string_view release) {
  std::array<int, 3> version{};
  const char* at = release.data();
  const char* const end = at + release.size();
  for (size_t i = 0; i < version.size(); ++i) {
    const auto [next, error] = std::from_chars(at, end, version[i]);
    if (error != std::errc()) return std::nullopt;
    if (i + 1 == version.size()) break;
    if (next == end || *next != '.') return std::nullopt;
    at = next + 1;
  }
  return version;
}

std::string text_of(const std::array<int, 3>& version) {
  return std::to_string(version[0]) + "." + std::to_string(version[1]) + "." + std::to_string(version[2]);
}

}  // namespace

Kernel Kernel::of_host() {
  utsname names{};
  if (uname(&names) != 0) return {};
  return {.system = names.sysname, .release = names.release};
}

std::optional<std::string> kernel_warning(const Kernel& kernel) {
  if (kernel.system != "Linux") return std::nullopt;
  const auto version = version_of(kernel.release);
  if (!version || *version >= kRecommended) return std::nullopt;
  return "Detected kernel version " + text_of(*version) + ", which is below the recommended minimum of " +
         text_of(kRecommended) +
         "; this can cause the process to hang. It is recommended to upgrade the kernel to the "
         "minimum version or higher.";
}

}  // namespace accelerate
