// LibTorch's NCCL: CUDA tensors between GPUs of any hosts. Compiled only where cmake/cuda.cmake finds what it takes.
#include <ATen/cuda/CUDAContext.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <atomic>
#include <cstdio>
#include <exception>
#include <map>
#include <mutex>

#include "accelerate/comm/backend.h"
#include "accelerate/core/env.h"
#include "accelerate/core/error.h"
#include "accelerate/tensor/hardware.h"

namespace accelerate::internal {
namespace {

using std::chrono::steady_clock;

/// The ranks' store until they are connected, then one of this process alone: NCCL's watchdog and monitor go on asking
/// whether another rank wants a dump, and one that asks a store that does not answer holds locks that collectives take.
class StoreToConnect final : public c10d::Store {
 public:
  explicit StoreToConnect(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}

  void connected() {
    const std::lock_guard lock(mutex_);
    store_ = c10::make_intrusive<c10d::HashStore>();
  }

  using Store::set;
  c10::intrusive_ptr<c10d::Store> clone() override { return c10::make_intrusive<StoreToConnect>(now()->clone()); }
  void set(const std::string& key, const std::vector<uint8_t>& value) override { now()->set(key, value); }
  std::vector<uint8_t> get(const std::string& key) override { return now()->get(key); }
  int64_t add(const std::string& key, int64_t value) override { return now()->add(key, value); }
  bool deleteKey(const std::string& key) override { return now()->deleteKey(key); }
  bool check(const std::vector<std::string>& keys) override { return now()->check(keys); }
  int64_t getNumKeys() override { return now()->getNumKeys(); }
  void wait(const std::vector<std::string>& keys) override { now()->wait(keys); }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override {
    now()->wait(keys, timeout);
  }

 private:
  c10::intrusive_ptr<c10d::Store> now() {
    const std::lock_guard lock(mutex_);
    return store_;
  }

  std::mutex mutex_;
  c10::intrusive_ptr<c10d::Store> store_;
};

class Nccl final : public c10d::ProcessGroupNCCL {
 public:
  using ProcessGroupNCCL::ProcessGroupNCCL;

  /// Before the statics of CUDA go. Orderly while the ranks are there: a lost one would never answer the goodbye, nor
  /// would those that wait for what an exception has kept this one from starting.
  ~Nccl() override {
    if (aborted_) return;
    try {
      std::uncaught_exceptions() > 0 ? this->abort() : shutdown();
    } catch (const std::exception& error) {
      TORCH_WARN("NCCL did not shut down: ", error.what());
    }
  }

  void abort() override {
    if (!aborted_.exchange(true)) ProcessGroupNCCL::abort();
  }

 private:
  std::atomic<bool> aborted_ = false;
};

/// The same for two ranks only if they compute on one GPU, whatever number each knows it by.
std::string identity_of(c10::Device device) {
  std::string text = "GPU-";
  for (const char byte : at::cuda::getDeviceProperties(device.index())->uuid.bytes) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned char>(byte));
    text += digits;
  }
  return text;
}

[[noreturn]] void throw_silent(const BackendContext& context, int rank, const std::string& why) {
  throw CommError({.place = "init_process_group",
                   .what = "Rank " + std::to_string(rank) + " did not answer while NCCL connected group \"" +
                           context.group + "\" for rank " + std::to_string(context.rank),
                   .got = why,
                   .expected = "every rank",
                   .remedy = "Look at what that rank printed last"});
}

/// What `rank` put under `key`.
std::string said(const BackendContext& context, int rank, const std::string& key) {
  const auto start = steady_clock::now();
  while (true) {
    try {
      context.store->wait({key}, std::chrono::seconds(1));
      return context.store->get_to_str(key);
    } catch (const c10::DistError& error) {
      if (const auto lost = context.lost ? context.lost() : std::nullopt) throw_silent(context, rank, *lost);
      if (steady_clock::now() - start > context.timeout) throw_silent(context, rank, error.what_without_backtrace());
    }
  }
}

/// Why these ranks cannot be connected, the same on every rank: NCCL takes one rank a GPU.
std::string refusal_of(const BackendContext& context) {
  context.store->set("gpu/" + std::to_string(context.rank), identity_of(context.device));
  std::map<std::string, int> ranks;
  std::string refusal;
  for (int rank = 0; rank < context.size; ++rank) {
    const std::string gpu = said(context, rank, "gpu/" + std::to_string(rank));
    const auto [other, alone] = ranks.emplace(gpu, rank);
    if (alone || !refusal.empty()) continue;
    refusal = "ranks " + std::to_string(other->second) + " and " + std::to_string(rank) + " have one GPU, " + gpu +
              ", and NCCL takes one rank a GPU";
  }
  return refusal;
}

MadeBackend make(const BackendContext& context) {
  make_current(context.device);
  const std::string refusal = refusal_of(context);
  if (!refusal.empty()) return {.backend = {}, .refusal = refusal};

  // NCCL's watchdog ends the process when a collective fails or is given up, before anybody could say why. There is no
  // option for it. 2: it cleans up, and the next collective throws.
  set_unless_set("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2");
  // Its monitor ends the process as well, after minutes; heartbeats do better.
  set_unless_set("TORCH_NCCL_ENABLE_MONITORING", "0");
  set_unless_set("TORCH_NCCL_DUMP_ON_TIMEOUT", "0");
  // The cache of events belongs to the thread that called first, and works give their events back after its end.
  set_unless_set("TORCH_NCCL_CUDA_EVENT_CACHE", "0");
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = context.timeout;
  options->group_name = context.group;
  const auto store = c10::make_intrusive<StoreToConnect>(context.store);
  auto backend = c10::make_intrusive<Nccl>(store, context.rank, context.size, options);
  backend->setBoundDeviceId(context.device);
  // Now, and not with the first gradient: a rank that cannot connect is found where it belongs.
  backend->eagerConnectSingleDevice(context.device);
  store->connected();
  return {.backend = std::move(backend), .refusal = {}};
}

}  // namespace

BackendEntry backend_nccl() { return {"nccl", 10, c10::kCUDA, make}; }

}  // namespace accelerate::internal
