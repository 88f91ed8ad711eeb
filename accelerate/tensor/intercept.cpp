// The dispatcher has one key at its very top that no backend uses. Its name says it is for tests: LibTorch has none for
// libraries.
#include "accelerate/tensor/intercept.h"

#include <ATen/core/boxing/KernelFunction.h>

#include <atomic>
#include <memory>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

constexpr auto kKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

/// Of the thread that began to observe; another one may end it.
thread_local std::shared_ptr<std::atomic<OperatorObserver*>> observer_of_thread;
std::atomic<uint64_t> helped{0};

void observe(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const Unobserved inside;
  if (const auto& place = observer_of_thread; place != nullptr) {
    OperatorObserver* const observer = place->load();
    return observer != nullptr ? observer->on_operator(op, *stack) : op.callBoxed(stack);
  }
  helped.fetch_add(1, std::memory_order_relaxed);
  op.callBoxed(stack);
}

/// For good: a process that has observed once may do so again.
void install() {
  static const c10::RegistrationHandleRAII installed = c10::Dispatcher::singleton().registerFallback(
      kKey, c10::KernelFunction::makeFromBoxedFunction<&observe>(), "accelerate::internal::Observation");
}

}  // namespace

Observation::Observation(OperatorObserver& observer) {
  if (observer_of_thread != nullptr && observer_of_thread->load() != nullptr) {
    throw UsageError({.place = "cuda_graph",
                      .what = "Two Accelerators capture steps in one thread at a time",
                      .got = "a step of one that begins inside a step of another",
                      .expected = "one after the other",
                      .remedy = "End the first step with optimizer.step(), or leave .cuda_graph out of one of them"});
  }
  install();
  observer_ = std::make_shared<std::atomic<OperatorObserver*>>(&observer);
  observer_of_thread = observer_;
  c10::impl::tls_set_dispatch_key_included(kKey, true);
}

Observation::~Observation() {
  observer_->store(nullptr);
  if (observer_of_thread != observer_) return;
  c10::impl::tls_set_dispatch_key_included(kKey, false);
  observer_of_thread.reset();
}

Unobserved::Unobserved() : excluded_(kKey) {}

bool is_observed() {
  return c10::impl::tls_is_dispatch_key_included(kKey) && !c10::impl::tls_is_dispatch_key_excluded(kKey);
}

c10::DispatchKeySet observation_keys() {
  return c10::DispatchKeySet({kKey, c10::DispatchKey::TESTING_ONLY_GenericWrapper});
}

uint64_t operators_of_helping_threads() { return helped.load(std::memory_order_relaxed); }

}  // namespace accelerate::internal
