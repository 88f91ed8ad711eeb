#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>

#include "accelerate/comm/world.h"
#include "accelerate/core/log.h"

namespace c10d {
class Store;
}

namespace accelerate::internal {

/// A store in which every rank of the world has registered.
struct Meeting {
  c10::intrusive_ptr<c10d::Store> store;          ///< keys of this Accelerator alone
  bool serves_store = false;                      ///< the server is in this process
  std::string store_server = "The host program";  ///< who serves it
};

/// Brings the ranks together. Throws CommError when the place cannot be reached or used, ranks are missing after
/// `timeout` (naming them), two processes claim one rank, or ranks count on different numbers of processes.
Meeting meet(const World& world, const Rendezvous& rendezvous, std::chrono::milliseconds timeout, const Log& log);
/// The same over a store of the host program's own.
Meeting meet(const World& world, c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout,
             const Log& log);

}  // namespace accelerate::internal
