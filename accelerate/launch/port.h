#pragma once

#include <cstdint>

#include "accelerate/launch/descriptor.h"

namespace accelerate::internal::launch {

/// A TCP port of this machine that nobody else is handed while this lives. The socket is bound with SO_REUSEADDR and
/// does not listen: a server that sets the option too, as every c10d::TCPStore does, binds and listens beside it, while
/// the kernel gives the port to no one who asks for any.
class PortReservation {
 public:
  /// `port` 0: any free one. Throws ConfigError, in the words of --main-process-port, when the port is in use.
  explicit PortReservation(uint16_t port);
  uint16_t port() const { return port_; }

 private:
  Descriptor socket_;
  uint16_t port_ = 0;
};

}  // namespace accelerate::internal::launch
