#pragma once

#include <unistd.h>

#include <string>

namespace accelerate::support {

/// What comes out of a pipe until its other end is closed; then closes this one.
inline std::string read_all(int descriptor) {
  std::string text;
  char part[4096];
  for (ssize_t count = 0; (count = ::read(descriptor, part, sizeof part)) > 0;) text.append(part, count);
  ::close(descriptor);
  return text;
}

}  // namespace accelerate::support
