#include "accelerate/comm/meeting.h"

#include <unistd.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <exception>
#include <functional>
#include <future>
#include <thread>
#include <utility>

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
    const auto ranks = missing(store, world.size);
    compare_sizes(store, world);  // after, or one that comes in between would not be compared
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

/// The store, as far as this rank came, for a rank that gives up. The one that serves it waits a moment for the others
/// to see the same, which they cannot without it.
void give_up(c10d::Store& store, const World& world, bool serves) {
  const int64_t came = world.size - static_cast<int64_t>(missing(store, world.size).size());
  store.add("gave_up", 1);
  const auto end = Clock::now() + std::chrono::seconds(1);
  while (serves && store.add("gave_up", 0) < came && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

CommError broken_off(const Meeting& meeting, const World& world, const std::string& reason) {
  return CommError({.place = "rendezvous",
                    .what = meeting.store_server + " is lost: the store where the ranks meet broke off",
                    .got = reason.substr(0, reason.find('\n')) + " on rank " + std::to_string(world.rank),
                    .expected = "it to stay until all " + std::to_string(world.size) + " ranks have come",
                    .remedy = "Look for the cause in its output, then start all ranks again"});
}

/// Fills in the store. Several Accelerators may meet in one, one after another: the n-th of every rank belong together.
Meeting join(Meeting meeting, const World& world, c10::intrusive_ptr<c10d::Store> store, const std::string& prefix,
             std::chrono::milliseconds timeout, const Log& log) {
  try {
    const auto run = c10::make_intrusive<c10d::PrefixStore>("accelerate" + prefix, std::move(store));
    claim_rank(*run, world);
    const int64_t turn = run->add("accelerators/" + std::to_string(world.rank), 1);
    meeting.store = c10::make_intrusive<c10d::PrefixStore>(std::to_string(turn), run);
    meeting.store->set("size/" + std::to_string(world.rank), std::to_string(world.size));
    try {
      wait_for_all(*meeting.store, world, timeout, log);
    } catch (const Error&) {
      give_up(*meeting.store, world, meeting.serves_store);
      throw;
    }
    return meeting;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw broken_off(meeting, world, error.what());
  }
}

/// A program on that port that is no store, or a rank 0 that stands still, takes connections and never answers; nothing
/// in a TCPStore ends such a wait. The thread keeps what it needs.
Meeting within(std::chrono::milliseconds limit, const std::function<Meeting()>& meet,
               const std::function<CommError()>& no_answer) {
  std::promise<Meeting> promise;
  std::future<Meeting> met = promise.get_future();
  std::thread thread([meet, promise = std::move(promise)]() mutable {
    pthread_setname_np(pthread_self(), "accelerate-meet");
    try {
      promise.set_value(meet());
    } catch (...) {
      promise.set_exception(std::current_exception());
    }
  });
  if (met.wait_for(limit) == std::future_status::ready) {
    thread.join();
    return met.get();
  }
  thread.detach();
  throw no_answer();
}

}  // namespace

Meeting meet(const World& world, const Rendezvous& rendezvous, std::chrono::milliseconds timeout, const Log& log) {
  const bool serves = rendezvous.file.empty() && !rendezvous.served && world.rank == 0;
  const char* server = !rendezvous.file.empty() ? "The file system" : rendezvous.served ? "The launcher" : "Rank 0";
  // What waits on its own is over by then and can say more.
  const auto limit = timeout + std::chrono::seconds(5);
  return within(
      limit,
      [=] {
        return join({.store = {}, .serves_store = serves, .store_server = server}, world,
                    open(world, rendezvous, timeout), rendezvous.prefix.empty() ? "" : "/" + rendezvous.prefix, timeout,
                    log);
      },
      [&] {
        return unreachable(world, rendezvous,
                           "a connection, and no answer for " + std::to_string(limit.count() / 1000) + " s");
      });
}

Meeting meet(const World& world, c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout,
             const Log& log) {
  return join({}, world, std::move(store), "", timeout, log);
}

}  // namespace accelerate::internal
