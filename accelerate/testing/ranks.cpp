#include "accelerate/testing/ranks.h"

#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "accelerate/comm/connect.h"
#include "accelerate/core/env.h"

namespace accelerate::testing {

AcceleratorOptions Rank::options(AcceleratorOptions options) const {
  options.world = world_;
  if (world_.size > 1) options.store = store_;
  if (!options.init_process_group.backend) options.init_process_group.backend = backend_;
  return options;
}

Group Rank::group() const {
  const InitProcessGroupKwargs defaults;
  internal::Connection connection{.world = world_};
  connection.store = store_;
  connection.backend = backend_;
  connection.timeout = defaults.timeout;
  connection.rendezvous_timeout = defaults.rendezvous_timeout;
  return internal::connect(connection, Log({}, world_.rank));
}

void run_ranks(int64_t size, const std::function<void(const Rank&)>& body, RunRanksOptions options) {
  // LibTorch's flight recorder, one a process, lists groups without a lock: ranks of one process crash in it now and
  // then. It reads this when Gloo is first used.
  set_unless_set("TORCH_FR_BUFFER_SIZE", "0");
  const StoreHandle store(c10::make_intrusive<c10d::HashStore>());
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      pthread_setname_np(pthread_self(), ("rank " + std::to_string(rank)).c_str());
      try {
        body(Rank({.rank = rank, .size = size, .local_rank = rank, .local_size = size}, store, options.backend));
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace accelerate::testing
