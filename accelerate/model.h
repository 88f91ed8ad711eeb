#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "accelerate/precision/policy.h"
#include "accelerate/strategy/strategy.h"
#include "accelerate/tensor/tree.h"

namespace torch::autograd {
struct Node;
}

namespace accelerate {

class SyncSchedule;

namespace internal {

/// One call of a user's module with the types forgotten: whoever receives it decides what happens around it.
class ForwardCall {
 public:
  virtual void invoke() = 0;
  /// After `invoke`.
  virtual void for_each_output(TensorVisitor visit) = 0;

 protected:
  ~ForwardCall() = default;
};

/// The part of a prepared model that does not know the module's type.
class ModelCore {
 public:
  /// Attaches the strategy. Throws what it throws; nothing else has happened then.
  ModelCore(std::shared_ptr<torch::nn::Module> module, c10::Device device, PrecisionPolicy policy,
            std::unique_ptr<Strategy> strategy, const Group& group, std::shared_ptr<const SyncSchedule> sync, Log log);
  ~ModelCore();

  /// Runs the call under the model's precision and strategy; after training has ended, under its precision alone.
  void run(ForwardCall& call);

  /// The micro-step `window` leaves this model's gradients local.
  void accumulate_in(int64_t window) { local_window_ = window; }
  /// Until it is undone, passes reduce or stay local whatever the window says; the innermost counts.
  void push_sync(GradientSync sync) { forced_.push_back(sync); }
  void pop_sync() noexcept { forced_.pop_back(); }
  /// What a backward pass from `loss` does now. A forward that ran under `no_sync` stays local also after its guard has
  /// ended. Source: `DistributedDataParallel.require_backward_grad_sync`, read at forward.
  GradientSync backward_sync(const at::Tensor& loss);
  /// Before an optimizer changes parameters of this model.
  void before_update();
  /// Training has ended.
  void end() noexcept { strategy_->end(); }

  const std::shared_ptr<torch::nn::Module>& module() const { return module_; }
  Strategy& strategy() { return *strategy_; }
  const ParameterTable& table() const { return table_; }
  std::vector<at::Tensor> trainable() const;
  /// The Accelerator it was prepared by.
  const SyncSchedule* owner() const { return sync_.get(); }

 private:
  GradientSync sync_now() const;
  void remember_local(ForwardCall& call);

  std::shared_ptr<torch::nn::Module> module_;
  c10::Device device_;
  PrecisionPolicy policy_;
  std::unique_ptr<Strategy> strategy_;
  std::shared_ptr<const SyncSchedule> sync_;
  ParameterTable table_;
  std::vector<GradientSync> forced_;  ///< by the guards that are alive
  int64_t local_window_ = 0;          ///< the last window that leaves gradients local
  /// Where the graphs of forwards that ran under `no_sync` end, until a forward that did not.
  std::vector<std::weak_ptr<torch::autograd::Node>> local_forwards_;
};

template <class Result, class F>
class TypedCall final : public ForwardCall {
 public:
  explicit TypedCall(F& function) : function_(function) {}
  void invoke() override { result_.emplace(function_()); }
  void for_each_output(TensorVisitor visit) override { for_each_tensor(*result_, visit); }
  Result take() { return std::move(*result_); }

 private:
  F& function_;
  std::optional<Result> result_;
};

template <class F>
class TypedCall<void, F> final : public ForwardCall {
 public:
  explicit TypedCall(F& function) : function_(function) {}
  void invoke() override { function_(); }
  void for_each_output(TensorVisitor) override {}
  void take() {}

 private:
  F& function_;
};

template <class F>
auto run_typed(ModelCore& core, F function) {
  using Result = std::remove_cvref_t<decltype(function())>;
  if constexpr (!std::is_void_v<Result>) {
    static_assert(
        Flattenable<Result>,
        "accelerate: the library has to find the tensors in what forward() returns and cannot. Return a tensor, tuple, "
        "vector, map, optional or aggregate struct, or specialise accelerate::Flatten<YourType>.");
  }
  TypedCall<Result, F> call(function);
  core.run(call);
  return call.take();
}

}  // namespace internal

/// The guard of `no_sync` and `trigger_sync_in_backward`.
class [[nodiscard("keep the guard: `auto local = accelerator.no_sync(model);`")]] GradientSyncScope {
 public:
  GradientSyncScope(std::shared_ptr<internal::ModelCore> core, GradientSync sync) : core_(std::move(core)) {
    core_->push_sync(sync);
  }
  ~GradientSyncScope() {
    if (core_) core_->pop_sync();
  }
  GradientSyncScope(GradientSyncScope &&) noexcept = default;
  GradientSyncScope& operator=(GradientSyncScope&&) = delete;

 private:
  std::shared_ptr<internal::ModelCore> core_;
};

/// A prepared model: a handle beside the user's module, which is neither wrapped nor renamed. Copies share everything.
/// Calls take what `M::forward` takes and return what it returns, in the model's precision.
/// Source: what `Accelerator.prepare_model` returns.
template <class M>
class Model {
 public:
  using module_type = M;
  Model(std::shared_ptr<M> module, std::shared_ptr<internal::ModelCore> core)
      : module_(std::move(module)), core_(std::move(core)) {}

  template <class... Args>
  auto operator()(Args&&... args) const {
    return internal::run_typed(*core_,
                               [&]() -> decltype(auto) { return module_->forward(std::forward<Args>(args)...); });
  }

  /// A second entry point beside `forward`: `model.call(&Net::act, observation)`.
  template <class Method, class... Args>
  requires std::invocable<Method, M&, Args...>
  auto call(Method method, Args&&... args) const {
    return internal::run_typed(
        *core_, [&]() -> decltype(auto) { return std::invoke(method, *module_, std::forward<Args>(args)...); });
  }

  M* operator->() const { return module_.get(); }
  M& operator*() const { return *module_; }
  const std::shared_ptr<M>& ptr() const { return module_; }
  const std::shared_ptr<internal::ModelCore>& core() const { return core_; }

 private:
  std::shared_ptr<M> module_;
  std::shared_ptr<internal::ModelCore> core_;
};

}  // namespace accelerate
