#include "accelerate/comm/group_core.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <algorithm>
#include <exception>
#include <map>
#include <sstream>

#include "accelerate/comm/backend.h"
#include "accelerate/comm/launched_work.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

using Future = c10::ivalue::Future;

/// Every operation looks through the list of those under way.
constexpr size_t kManyOnDevice = 32;

std::string device_name(c10::DeviceType type) { return c10::DeviceTypeName(type, /*lower_case=*/true); }

/// The transport that `wanted` names for a device type: "gloo" for every type that has it, "cpu:gloo,cuda:nccl" for
/// each.
std::optional<std::string> wanted_for(const std::optional<std::string>& wanted, c10::DeviceType type) {
  if (!wanted) return std::nullopt;
  std::istringstream parts(*wanted);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t colon = part.find(':');
    if (colon == std::string::npos) return part;
    if (part.substr(0, colon) == device_name(type)) return part.substr(colon + 1);
  }
  return std::nullopt;
}

std::string list(const std::vector<BackendEntry>& entries) {
  std::string known;
  for (const BackendEntry& entry : entries) {
    known += (known.empty() ? "\"" : ", \"") + entry.name + "\" (" + device_name(entry.device_type) + ")";
  }
  return known;
}

[[noreturn]] void throw_unknown(const std::string& wanted, const std::vector<BackendEntry>& entries) {
  throw ConfigError({.place = "init_process_group",
                     .what = "The backend is not built in",
                     .got = ".backend = \"" + wanted + "\"",
                     .expected = "one of " + list(entries),
                     .remedy = "Leave .backend unset to get the best one that works"});
}

[[noreturn]] void throw_for_other_device(const std::string& wanted, const std::vector<BackendEntry>& entries) {
  throw ConfigError({.place = "init_process_group",
                     .what = "The backend connects other devices than the one in use",
                     .got = ".backend = \"" + wanted + "\" and the CPU",
                     .expected = "one for the CPU of " + list(entries),
                     .remedy = "Leave .backend unset to get the best one that works"});
}

/// A transport of another kind may serve the device: "gloo" asked for on a CUDA device still leaves NCCL to it.
bool names_type(const std::string& wanted, c10::DeviceType type, const std::vector<BackendEntry>& entries) {
  return std::any_of(entries.begin(), entries.end(),
                     [&](const BackendEntry& entry) { return entry.name == wanted && entry.device_type == type; });
}

struct Connected {
  c10::intrusive_ptr<c10d::Backend> backend;
  std::string name;  ///< "cpu:shm"
  bool compares_calls = false;
  bool gathers_lists = false;
};

Connected connect(const GroupSetup& setup, c10::DeviceType type) {
  std::vector<BackendEntry> entries = builtin_backends();
  std::stable_sort(entries.begin(), entries.end(),
                   [](const BackendEntry& a, const BackendEntry& b) { return a.preference > b.preference; });
  auto wanted = wanted_for(setup.backend, type);
  if (wanted) {
    const bool known =
        std::any_of(entries.begin(), entries.end(), [&](const auto& entry) { return entry.name == *wanted; });
    if (!known) throw_unknown(*wanted, entries);
    if (!names_type(*wanted, type, entries)) {
      if (setup.device.is_cpu()) throw_for_other_device(*wanted, entries);
      wanted.reset();
    }
  }
  std::string refusals;
  for (const BackendEntry& entry : entries) {
    if (entry.device_type != type || (wanted && entry.name != *wanted)) continue;
    MadeBackend made =
        entry.make({.store = c10::make_intrusive<c10d::PrefixStore>(entry.name, setup.store),
                    .rank = setup.rank,
                    .size = setup.size,
                    .timeout = setup.timeout,
                    .device = type == c10::kCPU ? c10::Device(c10::kCPU) : setup.device,
                    .group = setup.name,
                    .lost = [liveness = setup.liveness] { return liveness ? liveness->lost() : std::nullopt; }});
    if (made.backend)
      return {made.backend, device_name(type) + ":" + entry.name, entry.compares_calls, entry.gathers_lists};
    refusals += (refusals.empty() ? "" : "; ") + entry.name + ": " + made.refusal;
    if (wanted || setup.rank != 0) continue;
    const std::string line = "the ranks do not use " + entry.name + ": " + made.refusal;
    setup.one_host ? setup.log.warning(line) : setup.log.info(line);
  }
  throw ConfigError({.place = "init_process_group",
                     .what = "No backend connects the ranks for " + device_name(type) + " tensors",
                     .got = refusals.empty() ? "none is built in" : refusals,
                     .expected = "one that does",
                     .remedy = "Leave .backend unset, or build with -DACCELERATE_CUDA=ON for CUDA tensors"});
}

/// Whether one of `backends`, which the host program chose, is a transport of ours for the CPU that compares nothing.
bool uses_unchecked(const std::string& backends) {
  const auto entries = builtin_backends();
  return std::any_of(entries.begin(), entries.end(), [&](const BackendEntry& entry) {
    return entry.device_type == c10::kCPU && !entry.compares_calls && backends.find(entry.name) != std::string::npos;
  });
}

/// Whether the transport failed, as opposed to refusing its arguments.
bool is_transport_failure(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error&) {
    return false;
  } catch (const c10::DistError&) {
    return true;
  } catch (const c10::Error&) {
    return false;
  } catch (const std::exception&) {
    return true;  // Gloo's own
  }
}

std::string first_line(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  } catch (const std::exception& e) {
    return e.what();
  }
}

}  // namespace

GroupCore::GroupCore(GroupSetup setup)
    : setup_(std::move(setup)),
      group_(c10::make_intrusive<c10d::ProcessGroup>(setup_.store, setup_.rank, setup_.size)) {
  std::vector<c10::DeviceType> types{c10::kCPU};
  if (!setup_.device.is_cpu()) types.push_back(setup_.device.type());
  for (const c10::DeviceType type : types) {
    const auto [backend, name, compares_calls, gathers_lists] = connect(setup_, type);
    using Kind = c10d::ProcessGroup::BackendType;
    // c10d keeps one transport a kind, so that each type of device needs a kind of its own.
    const Kind kind = type == c10::kCPU ? Kind::CUSTOM : Kind::NCCL;
    group_->setBackend(type, kind, backend);
    group_->setDefaultBackend(kind);
    backends_ += (backends_.empty() ? "" : ",") + name;
    if (setup_.liveness && type != c10::kCPU) {
      setup_.liveness->on_lost([transport = backend] { transport->abort(); });
    }
    needs_comparison_ = setup_.device.is_cpu() && !compares_calls;
    if (type == c10::kCPU) gathers_lists_ = gathers_lists;
  }
  group_->setGroupName(setup_.name);
}

GroupCore::GroupCore(c10::intrusive_ptr<c10d::ProcessGroup> group, Log log)
    : setup_{.store = group->getStore(), .rank = group->getRank(), .size = group->getSize(), .log = std::move(log)},
      group_(std::move(group)),
      backends_(group_->getBackendName()),
      needs_comparison_(uses_unchecked(backends_)) {}

GroupCore::~GroupCore() {
  settle();
  // Gloo's destructor waits for what is in progress, which never ends once a rank is gone.
  if (setup_.liveness && setup_.liveness->gave_up()) group_.release();
}

GroupCore::Started GroupCore::start(const char* operation, const Starter& starter) {
  if (!setup_.liveness || is_capturing()) {
    auto work = starter();
    return {work, work->getFuture()};
  }
  Liveness& liveness = *setup_.liveness;
  Operations& operations = liveness.operations();
  const uint64_t id = operations.begin(operation, setup_.name == "world");
  try {
    if (const auto lost = liveness.lost())
      throw liveness.error({.id = id, .name = operation, .start = Clock::now()}, *lost);
    Started started{starter(), {}};
    if (started.work->isCompleted()) {
      operations.take(id);
      if (const auto error = started.work->exception()) std::rethrow_exception(error);
      return started;
    }
    const auto theirs = started.work->getFuture();
    if (!theirs->devices().empty()) {
      // The device waits, not the host: aborting the transport ends the work.
      operations.update(id, [&](Operation& running) { running.work = started.work; });
      if (operations.count() % kManyOnDevice == 0) liveness.look();
      started.future = theirs;
      return started;
    }
    started.future = c10::make_intrusive<Future>(theirs->elementType());
    operations.update(id, [&](Operation& running) { running.future = started.future; });
    theirs->addCallback([id, liveness = setup_.liveness, ours = started.future](Future& done) {
      if (done.hasError() && is_transport_failure(done.exception_ptr())) {
        // A broken connection does not say whose end it was; the heartbeats will.
        liveness->operations().update(id, [&](Operation& running) {
          running.failure = "The transport failed: " + first_line(done.exception_ptr());
          running.failed_at = Clock::now();
          running.timed_out = running.failure->find("imed out") != std::string::npos;
        });
        return;
      }
      if (!liveness->operations().take(id)) return;
      if (done.hasError()) {
        ours->setErrorIfNeeded(done.exception_ptr());
      } else {
        ours->markCompleted(done.value());
      }
    });
    return started;
  } catch (...) {
    const auto running = operations.take(id);
    const auto error = std::current_exception();
    if (!is_transport_failure(error)) throw;
    throw explained(running.value_or(Operation{.id = id, .name = operation, .start = Clock::now()}), error);
  }
}

void GroupCore::launch(const char* operation, c10::Device device, const std::function<void()>& work) {
  if (!setup_.liveness) return work();
  require_ranks(operation);
  work();
  if (!launched_) launched_ = c10::make_intrusive<LaunchedWork>(device);
  launched_->record();  // first: it is through when it was before this, or when this is
  last_launch_ = setup_.liveness->operations().again(last_launch_, operation, setup_.name == "world", launched_);
}

CommError GroupCore::explained(const Operation& operation, const std::exception_ptr& error) const {
  const auto lost = setup_.liveness->find_lost();
  return setup_.liveness->error(operation, lost ? *lost : "The transport failed: " + first_line(error));
}

void GroupCore::require_ranks(const char* operation) const {
  const auto lost = setup_.liveness ? setup_.liveness->lost() : std::nullopt;
  if (lost) throw setup_.liveness->error({.name = operation, .start = Clock::now()}, *lost);
}

std::shared_ptr<GroupCore> GroupCore::split(int64_t color) {
  at::Tensor colors = at::empty({setup_.size}, at::kLong);
  at::Tensor mine = at::full({1}, color, at::kLong);
  start("split", [&] { return group_->_allgather_base(colors, mine); }).any_future()->waitAndThrow();
  GroupSetup part = setup_;
  part.size = 0;
  for (int rank = 0; rank < setup_.size; ++rank) {
    if (colors[rank].item<int64_t>() != color) continue;
    if (rank == setup_.rank) part.rank = part.size;
    ++part.size;
  }
  part.name = setup_.name + "/" + std::to_string(++splits_) + "." + std::to_string(color);
  if (part.size == 1) return nullptr;
  part.store = c10::make_intrusive<c10d::PrefixStore>(part.name, setup_.store);
  return std::make_shared<GroupCore>(std::move(part));
}

/// Before a rank goes its device gets the time to be through, as long as the others can still come. After an exception
/// nobody knows whether they will.
void GroupCore::settle() noexcept {
  if (!setup_.liveness || setup_.device.is_cpu() || std::uncaught_exceptions() > 0) return;
  if (setup_.liveness->settle(setup_.timeout)) return;
  try {
    if (!setup_.liveness->lost()) setup_.log.warning("a collective that not every rank has started is given up");
    group_->getBackend(setup_.device.type())->abort();
  } catch (const std::exception& error) {
    setup_.log.warning(std::string("a transport did not abort: ") + error.what());
  }
}

void GroupCore::leave(const std::string& why) noexcept {
  if (!setup_.liveness) return;
  settle();
  setup_.liveness->leave(why);
  // What waits for a lost rank may keep the rest alive, and the program ends without its destructors.
  if (std::uncaught_exceptions() > 0 || setup_.liveness->gave_up()) setup_.liveness->linger();
}

}  // namespace accelerate::internal
