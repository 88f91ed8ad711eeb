#include "accelerate/launch/descriptor.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "accelerate/core/error.h"

namespace accelerate::internal::launch {

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    close();
    number_ = std::exchange(other.number_, -1);
  }
  return *this;
}

void Descriptor::close() noexcept {
  // Not retried after EINTR: on Linux the number is free then and may be somebody else's.
  if (number_ >= 0) ::close(std::exchange(number_, -1));
}

Pipe Pipe::make() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("Making a pipe", errno, "Raise the limit: ulimit -n");
  return {Descriptor(ends[0]), Descriptor(ends[1])};
}

void fill_standard_descriptors() {
  for (int number = 0; number <= 2; ++number) {
    if (::fcntl(number, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest free number is this one.
    if (::open("/dev/null", O_RDWR) < 0) throw_errno("Opening /dev/null", errno, "Make it readable and writable");
  }
}

void throw_errno(const std::string& what, int number, const std::string& remedy) {
  throw ConfigError(
      {.place = "launch", .what = what + " failed", .got = std::generic_category().message(number), .remedy = remedy});
}

}  // namespace accelerate::internal::launch
