#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/data/prefetch/host_source.h"
#include "accelerate/tensor/hardware.h"

namespace accelerate::internal {
namespace {

/// What the thread of the loop has switched, for the data set's operations in another one.
struct Modes {
  bool grad = at::GradMode::is_enabled();
  bool inference = c10::InferenceMode::is_enabled();
};

/// Workers share the processors; a team of threads under each of them would only be in the way. LibTorch's own switch
/// is that of the process.
void compute_with_one_thread() {
  if (auto* const set = reinterpret_cast<void (*)(int)>(::dlsym(RTLD_DEFAULT, "omp_set_num_threads"))) set(1);
}

struct Task {
  std::vector<int64_t> indices;
  bool done = false;  ///< guarded by the source's mutex; what follows is the worker's before and the loop's after
  HostBatch batch = {};
  std::exception_ptr error = {};
};

class WorkerSource final : public HostSource {
 public:
  WorkerSource(const Fetch& fetch, BatchIndices indices, WorkerOptions options, PinnedRing* ring)
      : fetch_(fetch), indices_(std::move(indices)), options_(options), ring_(ring) {
    top_up();
    threads_.reserve(static_cast<size_t>(options_.num_workers));
    try {
      for (int64_t i = 0; i < options_.num_workers; ++i)
        threads_.emplace_back([this, modes = Modes{}] { work(modes); });
    } catch (const std::system_error& error) {
      const std::string started = std::to_string(threads_.size());
      stop();
      throw ConfigError(
          {.place = "DataLoader",
           .what = std::string("The workers cannot be started: ") + error.what(),
           .got = ".num_workers = " + std::to_string(options_.num_workers) + " and " + started + " threads",
           .expected = "as many threads as workers",
           .remedy = "Lower DataLoaderOptions::num_workers"});
    }
  }
  ~WorkerSource() override { stop(); }

  HostBatch take() override {
    const std::unique_ptr<Task> task = std::move(tasks_.front());
    tasks_.pop_front();
    {
      std::unique_lock lock(mutex_);
      finished_.wait(lock, [&] { return task->done; });
    }
    if (task->error) std::rethrow_exception(task->error);
    top_up();
    return std::move(task->batch);
  }

  bool ready() override {
    if (tasks_.empty()) return false;
    const std::lock_guard lock(mutex_);
    return tasks_.front()->done;
  }

 private:
  void top_up() {
    while (!indices_.at_end() && tasks_.size() < static_cast<size_t>(options_.ahead)) {
      auto task = std::make_unique<Task>();
      const auto indices = indices_.next();
      task->indices.assign(indices.begin(), indices.end());
      task->batch.lent = ring_ == nullptr ? nullptr : ring_->lend_free();
      {
        const std::lock_guard lock(mutex_);
        waiting_.push_back(task.get());
      }
      tasks_.push_back(std::move(task));
      given_.notify_one();
    }
  }

  void work(Modes modes) {
    pthread_setname_np(pthread_self(), "accelerate-data");
    compute_with_one_thread();
    make_current(options_.device);
    const c10::InferenceMode inference(modes.inference);
    const at::AutoGradMode grad(modes.grad);
    for (;;) {
      Task* task = nullptr;
      {
        std::unique_lock lock(mutex_);
        given_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
        if (stopping_) return;
        task = waiting_.front();
        waiting_.pop_front();
      }
      make(*task);
      const std::lock_guard lock(mutex_);
      task->done = true;
      finished_.notify_one();
    }
  }

  void make(Task& task) {
    try {
      fetch_into(task.batch, fetch_, task.indices);
    } catch (...) {
      task.error = std::current_exception();
    }
  }

  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    given_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  const Fetch& fetch_;
  BatchIndices indices_;
  const WorkerOptions options_;
  PinnedRing* const ring_;
  std::deque<std::unique_ptr<Task>> tasks_;  ///< in the order of the pass; of the loop's thread
  std::mutex mutex_;
  std::condition_variable given_, finished_;
  std::deque<Task*> waiting_;  ///< not begun
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<HostSource> make_worker_source(const Fetch& fetch, BatchIndices indices, WorkerOptions options,
                                               PinnedRing* ring) {
  return std::make_unique<WorkerSource>(fetch, std::move(indices), options, ring);
}

}  // namespace accelerate::internal
