#pragma once

#include <cstdint>
#include <string>

namespace accelerate::internal {

/// The numeric address that this host's packets to `host` carry; nothing is sent. Empty when there is no way there.
std::string address_towards(const std::string& host, uint16_t port);

/// Whether a numeric address never leaves its host.
bool is_loopback(const std::string& address);

}  // namespace accelerate::internal
