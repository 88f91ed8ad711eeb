#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

namespace accelerate {

/// Gives memory that is kept for later back to the device, if there is one; nothing on the CPU.
/// Source: `accelerate.utils.clear_device_cache`.
void clear_device_cache();

/// Whether less memory may help: `c10::OutOfMemoryError`, `std::bad_alloc`, or one of the texts that the original looks
/// for. Source: `accelerate.utils.should_reduce_batch_size`.
bool should_reduce_batch_size(const std::exception& error);

/// Lets go of what the objects hold, tensors, modules, optimizers, handles, lists of them, by moving from them, and
/// then clears the device's cache. What somebody else holds too stays. Source: `accelerate.utils.release_memory`.
template <class... Objects>
void release_memory(Objects&... objects) {
  static_assert((!std::is_const_v<Objects> && ...), "accelerate: release_memory() empties its arguments.");
  (static_cast<void>(Objects(std::move(objects))), ...);
  clear_device_cache();
}

struct FindBatchSizeOptions {
  int64_t starting_batch_size = 128;
  std::function<int64_t(int64_t batch_size)> reduce_batch_size = {};  ///< default: nine tenths of it, rounded down
  bool remember_batch_size = false;  ///< the next call starts with the size that worked, as in the original
};

namespace internal {

/// The sizes that are tried.
class BatchSizeSearch {
 public:
  explicit BatchSizeSearch(FindBatchSizeOptions options);
  /// A call begins. Throws UsageError for a size that is not positive.
  void begin();
  /// `error` was caught and is over: the next size, once memory that nobody uses is given back. Throws UsageError when
  /// none is left, or for one that is not smaller.
  void reduce(const std::string& error);
  int64_t batch_size() const { return batch_size_; }

 private:
  void require_positive(const std::string& error) const;
  FindBatchSizeOptions options_;
  int64_t batch_size_;
};

}  // namespace internal

/// What `find_executable_batch_size` returns.
template <class F>
class ExecutableBatchSize {
 public:
  ExecutableBatchSize(F function, FindBatchSizeOptions options)
      : function_(std::move(function)), search_(std::move(options)) {}

  /// `function(batch_size, args...)`, with smaller and smaller sizes until it does not run out of memory. Arguments are
  /// passed again each time, so they are not moved from. Other exceptions pass. Throws UsageError when no size is left.
  template <class... Args>
  decltype(auto) operator()(Args&&... args) {
    static_assert(std::is_invocable_v<F&, int64_t, Args&...>,
                  "accelerate: find_executable_batch_size() passes the batch size itself, as the function's first "
                  "argument: call the result with the others only.");
    for (search_.begin();;) {
      std::string out_of_memory;
      try {
        return std::invoke(function_, search_.batch_size(), args...);
      } catch (const std::exception& error) {
        if (!should_reduce_batch_size(error)) throw;
        out_of_memory = error.what();
      }
      // Outside the handler: what the function held is gone by now.
      search_.reduce(out_of_memory);
    }
  }
  /// The size of the last try; before the first call the one to start with.
  int64_t batch_size() const { return search_.batch_size(); }

 private:
  F function_;
  internal::BatchSizeSearch search_;
};

/// A callable that runs `function(batch_size, args...)` with `.starting_batch_size` and, each time memory runs out,
/// with a smaller one. Every call starts anew unless `.remember_batch_size`. In several processes each tries for
/// itself: use it where no collective is inside, or in one process, and pass the size on. Source:
/// `accelerate.utils.find_executable_batch_size`.
template <class F>
ExecutableBatchSize<F> find_executable_batch_size(F function, FindBatchSizeOptions options = {}) {
  return ExecutableBatchSize<F>(std::move(function), std::move(options));
}

}  // namespace accelerate
