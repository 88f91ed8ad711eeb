#pragma once

#include <optional>
#include <string>

namespace accelerate {

/// The operating system's kernel, as `uname` names it.
struct Kernel {
  std::string system = {};   ///< "Linux"
  std::string release = {};  ///< "5.15.0-35-generic"

  static Kernel of_host();
};

/// What is worth a warning: on Linux before 5.5 processes may hang. Source: `accelerate.utils.check_os_kernel`.
std::optional<std::string> kernel_warning(const Kernel& kernel);

}  // namespace accelerate
