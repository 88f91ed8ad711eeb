#include "accelerate/comm/meeting.h"

#include <unistd.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <thread>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kFirstComplaint{10};

std::string place_of(const Rendezvous& rendezvous) {
  return rendezvous.file.empty() ? rendezvous.address + ":" + std::to_string(rendezvous.port) : rendezvous.file;
}

CommError unreachable(const World& world, const Rendezvous& rendezvous, const std::string& reason) {
  const bool server = world.rank == 0 && !rendezvous.served;
  const bool taken = server && (reason.find("EADDRINUSE") != std::string::npos ||
                                reason.find("address already in use") != std::string::npos ||
                                reason.find("Address already in use") != std::string::npos);
  return CommError({.place = "rendezvous",
                    .what = taken    ? "The port is taken by another program"
                            : server ? "Rank 0 cannot serve the store where the ranks are to meet"
                                     : "The store where the ranks are to meet does not answer",
                    .got = place_of(rendezvous) + " (" + reason.substr(0, reason.find('\n')) + ")",
                    .expected = server ? "a free port on this host" : "rank 0 to listen there",
                    .remedy = taken    ? "Choose another MASTER_PORT, the same for every rank"
                              : server ? "Set MASTER_ADDR to an address of rank 0's host"
                                       : "Start rank 0, and check MASTER_ADDR, MASTER_PORT and the network between "
                                         "the hosts"});
}

c10::intrusive_ptr<c10d::Store> open(const World& world, const Rendezvous& rendezvous,
                                     std::chrono::milliseconds timeout) {
  try {
    if (!rendezvous.file.empty()) {
      return c10::make_intrusive<c10d::FileStore>(rendezvous.file, static_cast<int>(world.size));
    }
    c10d::TCPStoreOptions options;
    options.port = rendezvous.port;
    options.isServer = world.rank == 0 && !rendezvous.served;
    options.waitWorkers = false;  // `meet` waits, and can say for whom
    options.timeout = timeout;
    options.multiTenant = true;  // a second Accelerator of this process joins the server of the first
    return c10::make_intrusive<c10d::TCPStore>(rendezvous.address, options);
  } catch (const std::exception& error) {
    throw unreachable(world, rendezvous, error.what());
  }
}

/// Ranks that have not registered.
std::vector<int64_t> missing(c10d::Store& store, int64_t size) {
  std::vector<int64_t> ranks;
  for (int64_t rank = 0; rank < size; ++rank) {
    if (!store.check({"size/" + std::to_string(rank)})) ranks.push_back(rank);
  }
  return ranks;
}

std::string list(const std::vector<int64_t>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size() && i < 16; ++i) text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  return ranks.size() > 16 ? text + " and " + std::to_string(ranks.size() - 16) + " more" : text;
}

/// Throws when another process has claimed this rank.
void claim_rank(c10d::Store& store, const World& world) {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  const std::string me = std::string(host) + ", process " + std::to_string(getpid());
  const std::string owner = store.compareSet("owner/" + std::to_string(world.rank), "", me);
  if (owner == me) return;
  const std::string rank = std::to_string(world.rank);
  throw CommError({.place = "rendezvous",
                   .what = "Two processes say that they are rank " + rank,
                   .got = "RANK=" + rank + " in " + owner + " and in " + me,
                   .expected = "every rank from 0 to " + std::to_string(world.size - 1) + " once",
                   .remedy = "Start the processes through a launcher, or give each its own RANK"});
}

void compare_sizes(c10d::Store& store, const World& world) {
  for (int64_t rank = 0; rank < world.size; ++rank) {
    const std::string key = "size/" + std::to_string(rank);
    if (!store.check({key})) continue;
    const std::string size = store.get_to_str(key);
    if (size == std::to_string(world.size)) continue;
    throw CommError({.place = "rendezvous",
                     .what = "The ranks count on different numbers of processes",
                     .got = "WORLD_SIZE=" + std::to_string(world.size) + " on rank " + std::to_string(world.rank) +
                            ", " + size + " on rank " + std::to_string(rank),
                     .expected = "the same on every rank",
                     .remedy = "Start all processes with one launch"});
  }
}

void wait_for_all(c10d::Store& store, const World& world, std::chrono::milliseconds timeout, const Log& log) {
  const auto start = Clock::now();
  auto complaint = start + kFirstComplaint;
  auto pause = std::chrono::microseconds(200);
  while (true) {
    compare_sizes(store, world);
    const auto ranks = missing(store, world.size);
    if (ranks.empty()) return;
    const auto now = Clock::now();
    if (now - start > timeout) {
      throw CommError({.place = "rendezvous",
                       .what = "Not every rank came",
                       .got = "rank " + list(ranks) + " missing after " +
                              std::to_string(std::chrono::duration_cast<std::chrono::seconds>(now - start).count()) +
                              " s",
                       .expected = std::to_string(world.size) + " ranks",
                       .remedy = "Look at the output of the missing ones; .init_process_group = {.rendezvous_timeout = "
                                 "...} waits longer"});
    }
    if (now > complaint) {
      log.warning("waiting for rank " + list(ranks) + " to come");
      complaint = now + 6 * kFirstComplaint;
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, std::chrono::microseconds(50000));
  }
}

Meeting join(const World& world, c10::intrusive_ptr<c10d::Store> store, const std::string& prefix,
             std::chrono::milliseconds timeout, const Log& log) {
  // Several Accelerators may meet in one store, one after another: the n-th of every rank belong together.
  const auto run = c10::make_intrusive<c10d::PrefixStore>("accelerate" + prefix, std::move(store));
  claim_rank(*run, world);
  const int64_t turn = run->add("accelerators/" + std::to_string(world.rank), 1);
  auto own = c10::make_intrusive<c10d::PrefixStore>(std::to_string(turn), run);
  own->set("size/" + std::to_string(world.rank), std::to_string(world.size));
  wait_for_all(*own, world, timeout, log);
  return {.store = own};
}

}  // namespace

Meeting meet(const World& world, const Rendezvous& rendezvous, std::chrono::milliseconds timeout, const Log& log) {
  const bool serves = rendezvous.file.empty() && !rendezvous.served && world.rank == 0;
  Meeting meeting = join(world, open(world, rendezvous, timeout),
                         rendezvous.prefix.empty() ? "" : "/" + rendezvous.prefix, timeout, log);
  meeting.serves_store = serves;
  meeting.store_server = !rendezvous.file.empty() ? "The file system" : rendezvous.served ? "The launcher" : "Rank 0";
  return meeting;
}

Meeting meet(const World& world, c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout,
             const Log& log) {
  return join(world, std::move(store), "", timeout, log);
}

}  // namespace accelerate::internal
