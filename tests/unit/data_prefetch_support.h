#pragma once

#include <ATen/ATen.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/data/prefetch/transfer.h"

namespace prefetching {

/// A device as slow as can be: a copy reads the host's memory only when the host waits for it, or at the end of the
/// test. A slot that is filled too early shows in the values.
class LateTransfer final : public accelerate::internal::Transfer {
 public:
  at::Tensor host_memory(int64_t bytes) override {
    require_own_thread();
    ++allocations;
    return at::full({bytes}, 0xAB, at::kByte);
  }

  std::shared_ptr<const accelerate::internal::BatchCopy> start(std::span<at::Tensor* const> tensors) override {
    require_own_thread();
    if (fails) fails(started);
    auto copy = std::make_shared<Copy>(*this, started++);
    for (at::Tensor* tensor : tensors) {
      at::Tensor target = at::empty_strided(tensor->sizes(), tensor->strides(), tensor->options());
      copy->pairs.emplace_back(*tensor, target);
      *tensor = target;
    }
    queue_.push_back(copy);
    if (prompt) run_all();
    return copy;
  }

  void run_all() {
    while (!queue_.empty()) run_oldest();
  }

  bool prompt = false;                 ///< copies are made at once
  std::function<void(int64_t)> fails;  ///< may throw instead of starting the copy of that number
  int64_t started = 0, waits = 0, allocations = 0;
  std::vector<int64_t> used;  ///< the copies that computations were made to wait for

 private:
  struct Copy final : accelerate::internal::BatchCopy {
    Copy(LateTransfer& owner, int64_t which) : transfer(owner), number(which) {}
    bool finished() const override { return done; }
    void wait() const override {
      ++transfer.waits;
      while (!done) transfer.run_oldest();
    }
    void before_use(std::span<at::Tensor* const>) const override { transfer.used.push_back(number); }
    LateTransfer& transfer;
    int64_t number;
    bool done = false;
    std::vector<std::pair<at::Tensor, at::Tensor>> pairs;
  };

  void run_oldest() {
    for (auto& [from, to] : queue_.front()->pairs) to.copy_(from);
    queue_.front()->done = true;
    queue_.pop_front();
  }
  void require_own_thread() const {
    if (std::this_thread::get_id() != owner_) throw std::logic_error("another thread talks to the device");
  }

  std::thread::id owner_ = std::this_thread::get_id();
  std::deque<std::shared_ptr<Copy>> queue_;
};

/// Examples {i, f(i)}; an example may throw, and those that make it are remembered.
struct Examples {
  struct Example {
    at::Tensor number;
    at::Tensor vector;
  };
  int64_t count;
  std::optional<int64_t> broken = {};
  std::shared_ptr<std::atomic<int64_t>> made = std::make_shared<std::atomic<int64_t>>(0);

  int64_t size() const { return count; }
  Example get(int64_t index) const {
    if (broken == index) throw std::runtime_error("example " + std::to_string(index) + " is broken");
    ++*made;
    return {at::scalar_tensor(index, at::kLong), at::full({3}, 0.5 * static_cast<double>(index), at::kDouble)};
  }
};

/// `loader` prepared as for a device that `transfer` leads to.
template <class Batch>
accelerate::DataLoader<Batch> over(const accelerate::DataLoader<Batch>& loader,
                                   std::shared_ptr<accelerate::internal::Transfer> transfer,
                                   accelerate::DataShard shard = {}) {
  return accelerate::DataLoader<Batch>(loader.core()->prepared({.device = c10::Device(c10::kCPU),
                                                                .active = std::make_shared<accelerate::ActiveLoaders>(),
                                                                .shard = shard,
                                                                .transfer = std::move(transfer)}));
}

}  // namespace prefetching
