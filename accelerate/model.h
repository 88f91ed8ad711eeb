#pragma once

#include <concepts>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "accelerate/core/handle.h"
#include "accelerate/optim/loss_weights.h"
#include "accelerate/precision/cast_argument.h"
#include "accelerate/precision/policy.h"
#include "accelerate/strategy/strategy.h"
#include "accelerate/tensor/tree.h"

namespace torch::autograd {
struct Node;
}
namespace torch::nn {
class Module;
}

namespace accelerate {

class SyncSchedule;

namespace internal {

class MasterWeights;
class MemoryOwners;
class StepRecorder;

/// One call of a user's module with the types forgotten: whoever receives it decides what happens around it.
class ForwardCall {
 public:
  virtual void invoke() = 0;
  /// With floating arguments in `dtype`, as far as their types tell; the caller's tensors stay as they are.
  virtual void invoke_in(at::ScalarType dtype) = 0;
  /// Of the arguments, as far as their types tell.
  virtual void for_each_input(TensorVisitor visit) = 0;
  /// After `invoke`.
  virtual void for_each_output(TensorVisitor visit) = 0;

 protected:
  ~ForwardCall() = default;
};

/// The part of a prepared model that does not know the module's type.
class ModelCore {
 public:
  /// Attaches the strategy to the ranks of `group`; a group of one leaves gradients and values to each process. Throws
  /// what it throws; nothing else has happened then.
  ModelCore(std::shared_ptr<torch::nn::Module> module, c10::Device device, PrecisionPolicy policy,
            std::unique_ptr<Strategy> strategy, const Group& group, std::shared_ptr<const SyncSchedule> sync, Log log,
            std::shared_ptr<StepRecorder> steps = {});
  ~ModelCore();

  /// Runs the call under the model's precision and strategy; after training has ended, under its precision alone.
  void run(ForwardCall& call);

  /// The micro-step `window` leaves this model's gradients local.
  void accumulate_in(int64_t window) { local_window_ = window; }
  /// Until it is undone, passes reduce or stay local whatever the window says; the innermost counts.
  /// The token is for `pop_sync`: guards may end in any order.
  int64_t push_sync(GradientSync sync) {
    forced_.push_back({++last_token_, sync});
    return last_token_;
  }
  void pop_sync(int64_t token) noexcept {
    std::erase_if(forced_, [&](const Forced& forced) { return forced.token == token; });
  }
  /// What a backward pass from `loss` does now. A forward that ran under `no_sync` stays local also after its guard has
  /// ended. Source: `DistributedDataParallel.require_backward_grad_sync`, read at forward.
  GradientSync backward_sync(const at::Tensor& loss);
  /// Before an optimizer changes parameters of this model.
  void before_update();
  /// Ranks share it, and what a pass adds now would not be averaged over them.
  bool stays_local() const { return ranks_ > 1 && sync_now() == GradientSync::kAccumulate; }
  /// Training has ended.
  void end() noexcept;

  const std::shared_ptr<torch::nn::Module>& module() const { return module_; }
  Strategy& strategy() { return *strategy_; }
  const ParameterTable& table() const { return table_; }
  std::vector<at::Tensor> trainable() const;
  /// What the user calls the parameters that `trainable` lists.
  std::vector<std::string> trainable_names() const;
  /// Whether autograd from `loss` comes to a parameter of this model.
  bool reached_by(const at::Tensor& loss) const;
  /// The ranks over which its gradients are averaged.
  int64_t ranks() const { return ranks_; }
  LossWeights& loss_weights() { return loss_weights_; }
  /// Who is asked when a call finds no memory left.
  void explain_memory(const std::shared_ptr<MemoryOwners>& owners) { memory_ = owners; }
  std::shared_ptr<MemoryOwners> memory() const { return memory_.lock(); }
  /// Of its parameters; null: they are what is trained.
  const std::shared_ptr<MasterWeights>& masters() const { return masters_; }
  void know_masters(const std::shared_ptr<MasterWeights>& masters) { masters_ = masters; }
  /// The Accelerator it was prepared by.
  const SyncSchedule* owner() const { return sync_.get(); }

 private:
  struct Forced {
    int64_t token;
    GradientSync sync;
  };
  void run_in_precision(ForwardCall& call);
  GradientSync sync_now() const;
  void begin_step(ForwardCall& call);
  void remember_local(ForwardCall& call);

  std::shared_ptr<torch::nn::Module> module_;
  c10::Device device_;
  PrecisionPolicy policy_;
  std::unique_ptr<Strategy> strategy_;
  std::shared_ptr<const SyncSchedule> sync_;
  ParameterTable table_;
  std::weak_ptr<MemoryOwners> memory_;
  std::shared_ptr<MasterWeights> masters_;
  int64_t ranks_;
  LossWeights loss_weights_;
  std::vector<Forced> forced_;  ///< by the guards that are alive
  int64_t last_token_ = 0;
  int64_t local_window_ = 0;  ///< the last window that leaves gradients local
  /// Where the graphs of forwards that ran under `no_sync` end, until a forward that did not.
  std::vector<std::weak_ptr<torch::autograd::Node>> local_forwards_;
  std::shared_ptr<StepRecorder> steps_;  ///< null: nothing is captured
};

template <class Result, class F, class... Args>
class TypedCall final : public ForwardCall {
  static constexpr bool kReturns = !std::is_void_v<Result>;

 public:
  explicit TypedCall(F& function, Args&&... args) : function_(function), args_(std::forward<Args>(args)...) {}

  void invoke() override {
    std::apply(
        [&](auto&... given) {
          if constexpr (kReturns) {
            result_.emplace(function_(std::forward<Args>(given)...));
          } else {
            function_(std::forward<Args>(given)...);
          }
        },
        args_);
  }
  void invoke_in(at::ScalarType dtype) override {
    std::apply(
        [&](auto&... given) {
          if constexpr (kReturns) {
            result_.emplace(function_(CastArgument<Args>(given, dtype).get()...));
          } else {
            function_(CastArgument<Args>(given, dtype).get()...);
          }
        },
        args_);
  }
  /// What cannot be looked into is passed over.
  void for_each_input(TensorVisitor visit) override {
    const auto look = [&]<class T>(T& argument) {
      if constexpr (Flattenable<T>) {
        for_each_tensor(const_cast<std::remove_const_t<T>&>(argument), visit);  // only looked at
      }
    };
    std::apply([&](auto&... given) { (look(given), ...); }, args_);
  }
  void for_each_output(TensorVisitor visit) override {
    if constexpr (kReturns) for_each_tensor(*result_, visit);
  }
  Result take() {
    if constexpr (kReturns) return std::move(*result_);
  }

 private:
  F& function_;
  std::tuple<Args&&...> args_;
  std::optional<std::conditional_t<kReturns, Result, char>> result_;
};

template <class F, class... Args>
auto run_typed(ModelCore& core, F function, Args&&... args) {
  using Result = std::remove_cvref_t<decltype(function(std::forward<Args>(args)...))>;
  if constexpr (!std::is_void_v<Result>) {
    static_assert(
        Flattenable<Result>,
        "accelerate: the library has to find the tensors in what forward() returns and cannot. Return a tensor, tuple, "
        "vector, map, optional or aggregate struct, or specialise accelerate::Flatten<YourType>.");
  }
  TypedCall<Result, F, Args...> call(function, std::forward<Args>(args)...);
  core.run(call);
  return call.take();
}

}  // namespace internal

/// The guard of `no_sync` and `trigger_sync_in_backward`.
class [[nodiscard("keep the guard: `auto local = accelerator.no_sync(model);`")]] GradientSyncScope {
 public:
  GradientSyncScope(std::shared_ptr<internal::ModelCore> core, GradientSync sync)
      : core_(std::move(core)), token_(core_->push_sync(sync)) {}
  ~GradientSyncScope() {
    if (core_) core_->pop_sync(token_);
  }
  GradientSyncScope(GradientSyncScope &&) noexcept = default;
  GradientSyncScope& operator=(GradientSyncScope&&) = delete;

 private:
  std::shared_ptr<internal::ModelCore> core_;
  int64_t token_;
};

/// A prepared model: a handle beside the user's module, which is neither wrapped nor renamed. Copies share everything.
/// Calls take what `M::forward` takes and return what it returns, in the model's precision. Where that has parameters
/// of 16 bits, floating tensors among the arguments are converted on the way in; those that a function captures are
/// not. A `Model<torch::nn::Module>`, for callers that know no more of a module (language bindings), has no `forward`:
/// `call` takes a function of the module. After `free_memory` calls run plain, and the emptied handle throws
/// UsageError. Source: what `Accelerator.prepare_model` returns.
template <class M>
class Model {
 public:
  using module_type = M;
  Model(std::shared_ptr<M> module, std::shared_ptr<internal::ModelCore> core)
      : module_(std::move(module)), core_(std::move(core)) {}

  template <class... Args>
  auto operator()(Args&&... args) const {
    if constexpr (std::is_same_v<M, torch::nn::Module>) {
      static_assert(sizeof...(Args) > 1000,
                    "accelerate: a torch::nn::Module of unknown type has no forward(); run it with "
                    "model.call([&](torch::nn::Module& module) { return ...; }).");
    } else {
      return internal::run_typed(
          *core(),
          [&]<class... Given>(Given&&... given) -> decltype(auto) {
            return module_->forward(std::forward<Given>(given)...);
          },
          std::forward<Args>(args)...);
    }
  }

  /// A second entry point beside `forward`: `model.call(&Net::act, observation)`; or a function that takes the module:
  /// `model.call([&](Net& net) { return net.act(observation); })`.
  template <class Method, class... Args>
  requires std::invocable<Method, M&, Args...>
  auto call(Method method, Args&&... args) const {
    return internal::run_typed(
        *core(),
        [&]<class... Given>(Given&&... given) -> decltype(auto) {
          return std::invoke(method, *module_, std::forward<Given>(given)...);
        },
        std::forward<Args>(args)...);
  }

  M* operator->() const { return ptr().get(); }
  M& operator*() const { return *ptr(); }
  const std::shared_ptr<M>& ptr() const { return internal::held(module_, "model"); }
  const std::shared_ptr<internal::ModelCore>& core() const { return internal::held(core_, "model"); }
  /// Emptied by `free_memory`, or moved from.
  bool empty() const { return core_ == nullptr; }

 private:
  std::shared_ptr<M> module_;
  std::shared_ptr<internal::ModelCore> core_;
};

/// Prepared models of any types, one after the other: `{encoder, head}`.
class ModelList {
 public:
  class Entry {
   public:
    template <class M>
    Entry(const Model<M>& model) : core_(model.core()) {}  // NOLINT: `{encoder, head}`
    const std::shared_ptr<internal::ModelCore>& core() const { return core_; }

   private:
    std::shared_ptr<internal::ModelCore> core_;
  };
  ModelList(std::initializer_list<Entry> models) : models_(models) {}
  const std::vector<Entry>& entries() const { return models_; }

 private:
  std::vector<Entry> models_;
};

/// The user's own module, which a handle only stands beside. It runs plain, in its own precision.
/// Source: `accelerate.utils.extract_model_from_parallel`; nothing is wrapped here, so there is nothing to keep.
template <class M>
std::shared_ptr<M> extract_model_from_parallel(const Model<M>& model) {
  return model.ptr();
}

}  // namespace accelerate
