#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>

namespace accelerate {

/// A terminal that a stream writes to.
struct Terminal {
  int64_t columns = 80;
};

/// The terminal behind `out` if it is standard output or standard error and these lead to one; nothing for files, pipes
/// and streams in memory.
std::optional<Terminal> terminal_of(const std::ostream& out);

}  // namespace accelerate
