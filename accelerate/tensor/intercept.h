#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace accelerate::internal {

/// Sees the operators that a thread calls, as the user wrote them: before autocast and autograd look at them.
class OperatorObserver {
 public:
  /// In place of the operator: `stack` ends with its arguments, and has to end with its results. Operators called in
  /// here are not observed.
  virtual void on_operator(const c10::OperatorHandle& op, torch::jit::Stack& stack) = 0;

 protected:
  ~OperatorObserver() = default;
};

/// Until it ends, operators of the thread where it began go to an observer; one at a time. May end in another thread.
class [[nodiscard]] Observation {
 public:
  explicit Observation(OperatorObserver& observer);
  ~Observation();
  Observation(const Observation&) = delete;
  Observation& operator=(const Observation&) = delete;

 private:
  std::shared_ptr<std::atomic<OperatorObserver*>> observer_;
};

/// Until it ends, operators of this thread pass by its observer.
class [[nodiscard]] Unobserved {
 public:
  Unobserved();

 private:
  c10::impl::ExcludeDispatchKeyGuard excluded_;
};

/// Whether an operator that this thread called now would go to an observer.
bool is_observed();

/// The keys above every operator, which observers switch on; what is written down of a thread's state leaves them out.
c10::DispatchKeySet observation_keys();

/// How many operators were called so far by threads without an observer on behalf of one that has one: autograd's own,
/// where it was started without `Unobserved`.
uint64_t operators_of_helping_threads();

}  // namespace accelerate::internal
