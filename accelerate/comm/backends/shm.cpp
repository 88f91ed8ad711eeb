// Shared memory between CPU ranks of one host: the fastest transport there, refused where not all ranks can see each
// other's memory and processes. Source: this project.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <utility>
#include <vector>

#include "accelerate/comm/backend.h"
#include "accelerate/comm/backends/shm/shm_backend.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kYes[] = "yes ", kNo[] = "no ";

void put(const BackendContext& context, const std::string& key, const std::string& value) {
  context.store->set(key, std::vector<uint8_t>(value.begin(), value.end()));
}

// The value of `key` once `owner` has set it.
std::string await(const BackendContext& context, const std::string& key, int owner) {
  const auto start = Clock::now();
  auto pause = std::chrono::microseconds(100);
  auto look = start + std::chrono::milliseconds(50);
  while (!context.store->check({key})) {
    const auto now = Clock::now();
    std::string what;
    if (now - start > context.timeout) what = "Rank " + std::to_string(owner) + " did not come";
    if (now > look && context.lost) {
      look = now + std::chrono::milliseconds(50);
      what = context.lost().value_or(what);
    }
    if (!what.empty()) {
      const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(now - start);
      throw CommError({.place = "shm",
                       .what = what,
                       .got = "rank " + std::to_string(context.rank) + " waiting for " +
                              std::to_string(elapsed.count()) + " ms while group `" + context.group + "` connects",
                       .expected = "all " + std::to_string(context.size) + " ranks within " +
                                   std::to_string(context.timeout.count()) + " ms",
                       .remedy = "The output of rank " + std::to_string(owner) + " says why"});
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(10'000));
  }
  return context.store->get_to_str(key);
}

// What rank 0 offers, and each rank's answer to it.
std::string offer(const std::optional<shm::Segment>& segment, const std::string& problem) {
  return segment ? kYes + segment->address().text() : kNo + problem;
}

std::optional<shm::Segment> try_create(const BackendContext& context, std::string& problem) {
  try {
    return shm::Segment::create(context.size);
  } catch (const std::runtime_error& error) {
    problem = error.what();
    return std::nullopt;
  }
}

std::optional<shm::Segment> try_open(const BackendContext& context, const std::string& offered, std::string& problem) {
  const auto address = shm::Segment::Address::parse(offered.substr(sizeof kYes - 1));
  if (!offered.starts_with(kYes) || !address || address->ranks != context.size) {
    problem = "rank 0 has no shared memory to offer";
    return std::nullopt;
  }
  try {
    return shm::Segment::open(*address);
  } catch (const std::runtime_error& error) {
    problem = error.what();
    return std::nullopt;
  }
}

MadeBackend make(const BackendContext& context) {
  std::string problem;
  if (!shm::Peers::supported()) problem = "processes cannot be watched here (pidfd_open)";
  std::optional<shm::Segment> segment;
  if (context.rank == 0) {
    if (problem.empty()) segment = try_create(context, problem);
    put(context, "offer", offer(segment, problem));
  } else if (problem.empty()) {
    segment = try_open(context, await(context, "offer", 0), problem);
  }
  put(context, "rank" + std::to_string(context.rank),
      segment ? kYes + std::to_string(::getpid()) : kNo + std::move(problem));

  // Every rank reads the same answers and comes to the same conclusion; a segment nobody wants goes with its last
  // mapping.
  std::vector<pid_t> processes;
  std::string refusal;
  for (int rank = 0; rank < context.size; ++rank) {
    const std::string answer = await(context, "rank" + std::to_string(rank), rank);
    if (answer.starts_with(kYes)) {
      processes.push_back(std::stoi(answer.substr(sizeof kYes - 1)));
    } else if (refusal.empty()) {
      refusal = "rank " + std::to_string(rank) + ": " + answer.substr(std::min(answer.size(), sizeof kNo - 1));
    }
  }
  if (!refusal.empty()) return {.refusal = std::move(refusal)};
  segment->release();
  return {.backend = c10::make_intrusive<shm::ShmBackend>(std::move(*segment), shm::Peers(processes), context.rank,
                                                          context.group, context.timeout, context.lost)};
}

}  // namespace

BackendEntry backend_shm() {
  return {.name = "shm",
          .preference = 100,
          .device_type = c10::DeviceType::CPU,
          .make = make,
          .compares_calls = true,
          .gathers_lists = true};
}

}  // namespace accelerate::internal
