// LibTorch's Gloo over TCP: CPU tensors between any hosts.
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <future>
#include <thread>

#include "accelerate/comm/address.h"
#include "accelerate/comm/backend.h"
#include "accelerate/core/env.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

using Store = c10::intrusive_ptr<c10d::Store>;
using Gloo = c10::intrusive_ptr<c10d::ProcessGroupGloo>;

constexpr std::chrono::milliseconds kPoll{50};
constexpr char kInterface[] = "GLOO_SOCKET_IFNAME";

/// This rank's address for the others: the one from which it reaches the store. Who reaches it without leaving the host
/// takes the way to a rank that does not. Empty where the ranks did not meet over TCP.
std::string own_address(const BackendContext& context, Store store) {
  const Store keys = store;
  if (const auto prefixed = c10::dynamic_intrusive_pointer_cast<c10d::PrefixStore>(store)) {
    store = prefixed->getUnderlyingNonPrefixStore();
  }
  const auto tcp = c10::dynamic_intrusive_pointer_cast<c10d::TCPStore>(store);
  if (!tcp) return {};
  std::string own = address_towards(tcp->getHost(), tcp->getPort());
  keys->set("address/" + std::to_string(context.rank), own);
  for (int rank = 0; rank < context.size && is_loopback(own); ++rank) {
    const std::string other = keys->get_to_str("address/" + std::to_string(rank));
    if (!is_loopback(other)) own = address_towards(other, tcp->getPort());
  }
  return own;
}

Gloo connected(const BackendContext& context, const Store& store) {
  // The interface that the user names goes first. The host's name, which the original asks, is last: on many hosts it
  // leads to the host itself, where no other gets to.
  const bool named = Environment::of_process().text(kInterface).has_value();
  const std::string own = named ? "" : own_address(context, store);
  auto options = c10d::ProcessGroupGloo::Options::create(context.timeout);
  if (own.empty()) {
    options = c10d::ProcessGroupGloo::Options::create_default(context.timeout);
  } else {
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(own));
  }
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, context.rank, context.size, options);
}

CommError failed(const std::string& what, const std::string& got) {
  return CommError({.place = "gloo",
                    .what = what,
                    .got = got,
                    .expected = "every rank to reach every other over TCP",
                    .remedy = std::string("Set ") + kInterface +
                              " on every host to the network interface that leads to the others"});
}

std::string told(Store& store, const std::string& key) { return store->check({key}) ? store->get_to_str(key) : ""; }

MadeBackend make(const BackendContext& context) {
  // Gloo waits for the other ranks as long as for a collective and hears of nothing meanwhile: a thread waits for it,
  // and is left behind when they cannot come.
  std::packaged_task<Gloo()> task([context, store = context.store->clone()] { return connected(context, store); });
  std::future<Gloo> made = task.get_future();
  std::thread(std::move(task)).detach();
  Store store = context.store;
  while (made.wait_for(kPoll) != std::future_status::ready) {
    const std::string failure = told(store, "failed");
    const auto lost = context.lost ? context.lost() : std::nullopt;
    if (lost) throw failed(*lost, "rank " + std::to_string(context.rank) + " waiting for it to connect");
    if (!failure.empty()) throw failed("Another rank cannot connect", failure);
  }
  try {
    return {.backend = made.get()};
  } catch (const std::exception& error) {
    const std::string text = error.what();
    const std::string reason = "rank " + std::to_string(context.rank) + ": " + text.substr(0, text.find('\n'));
    store->set("failed", reason);
    throw failed("The rank cannot connect to another", reason);
  }
}

}  // namespace

BackendEntry backend_gloo() { return {"gloo", 10, c10::kCPU, make}; }

}  // namespace accelerate::internal
