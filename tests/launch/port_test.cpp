#include "accelerate/launch/port.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

#include "accelerate/core/error.h"

namespace accelerate::internal::launch {
namespace {

enum class Reuse { kNo, kYes };

/// A server on `port` as programs make one; errno, or 0 when it listens.
int listen_on(uint16_t port, Reuse reuse, Descriptor& server) {
  server = Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = reuse == Reuse::kYes ? 1 : 0;
  ::setsockopt(server.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::bind(server.number(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) return errno;
  return ::listen(server.number(), 8) == 0 ? 0 : errno;
}

TEST(LaunchPort, AFreePortIsHeldUntilRankZeroListensThere) {
  const PortReservation reservation(0);
  ASSERT_NE(reservation.port(), 0);
  Descriptor stranger, store;
  EXPECT_EQ(listen_on(reservation.port(), Reuse::kNo, stranger), EADDRINUSE);
  EXPECT_EQ(listen_on(reservation.port(), Reuse::kYes, store), 0);
}

TEST(LaunchPort, NoTwoReservationsAreGivenOnePort) {
  const PortReservation one(0), other(0);
  EXPECT_NE(one.port(), other.port());
}

TEST(LaunchPort, APortWithAListenerIsRefused) {
  uint16_t port = 0;
  {
    const PortReservation free(0);
    port = free.port();
  }
  Descriptor server;
  ASSERT_EQ(listen_on(port, Reuse::kYes, server), 0);
  try {
    const PortReservation taken(port);
    FAIL() << "the port was given twice";
  } catch (const ConfigError& error) {
    EXPECT_EQ(
        std::string(error.what()),
        "[--main-process-port] The port is in use on this machine: got " + std::to_string(port) +
            ", expected a free one. Leave the option out to have a free port chosen, or end the program that listens "
            "there (ss -ltnp shows it).");
  }
}

}  // namespace
}  // namespace accelerate::internal::launch
