#include "accelerate/launch/port.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <string>

#include "accelerate/core/error.h"

namespace accelerate::internal::launch {
namespace {

/// The socket bound to `port` on every address of the family, or errno.
struct Bound {
  Descriptor socket;
  int error = 0;
};

Bound bound(const sockaddr* address, socklen_t size) {
  Bound result{Descriptor(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0))};
  const int on = 1, off = 0;
  const int number = result.socket.number();
  if (!result.socket.open() || ::setsockopt(number, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      (address->sa_family == AF_INET6 && ::setsockopt(number, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) != 0) ||
      ::bind(number, address, size) != 0) {
    result.error = errno;
  }
  return result;
}

Bound bound_to_all(uint16_t port) {
  // Both families at once, as the store itself binds; a kernel without IPv6 has the other.
  sockaddr_in6 both{};
  both.sin6_family = AF_INET6;
  both.sin6_port = htons(port);
  Bound result = bound(reinterpret_cast<const sockaddr*>(&both), sizeof(both));
  if (result.error != EAFNOSUPPORT && result.error != EADDRNOTAVAIL) return result;
  sockaddr_in only{};
  only.sin_family = AF_INET;
  only.sin_port = htons(port);
  return bound(reinterpret_cast<const sockaddr*>(&only), sizeof(only));
}

}  // namespace

PortReservation::PortReservation(uint16_t port) {
  Bound result = bound_to_all(port);
  if (result.error == EADDRINUSE) {
    throw ConfigError({.place = "--main-process-port",
                       .what = "The port is in use on this machine",
                       .got = std::to_string(port),
                       .expected = "a free one",
                       .remedy = "Leave the option out to have a free port chosen, or end the program that listens "
                                 "there (ss -ltnp shows it)"});
  }
  if (result.error == EACCES) {
    throw ConfigError({.place = "--main-process-port",
                       .what = "The port may not be used by this user",
                       .got = std::to_string(port),
                       .expected = "one from 1024 to 65535",
                       .remedy = "Leave the option out to have a free port chosen"});
  }
  if (result.error != 0) throw_errno("Binding a port for rank 0", result.error, "Check this machine's network");
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getsockname(result.socket.number(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    throw_errno("Reading the chosen port", errno, "Check this machine's network");
  }
  port_ = ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                              : reinterpret_cast<const sockaddr_in&>(address).sin_port);
  socket_ = std::move(result.socket);
}

}  // namespace accelerate::internal::launch
