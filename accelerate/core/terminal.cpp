#include "accelerate/core/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>

namespace accelerate {
namespace {

std::optional<int> descriptor_of(const std::ostream& out) {
  const std::streambuf* const buffer = out.rdbuf();
  if (buffer == std::cout.rdbuf()) return STDOUT_FILENO;
  if (buffer == std::cerr.rdbuf() || buffer == std::clog.rdbuf()) return STDERR_FILENO;
  return std::nullopt;
}

}  // namespace

std::optional<Terminal> terminal_of(const std::ostream& out) {
  const std::optional<int> descriptor = descriptor_of(out);
  if (!descriptor || isatty(*descriptor) == 0) return std::nullopt;
  winsize size{};
  if (ioctl(*descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return Terminal{};
  return Terminal{.columns = size.ws_col};
}

}  // namespace accelerate
