#pragma once

#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "accelerate/data/loader.h"
#include "accelerate/model.h"
#include "accelerate/model_script.h"
#include "accelerate/optim/optimizer.h"
#include "accelerate/optim/scheduler.h"

namespace accelerate {

/// Of `prepare(options, objects...)`.
struct PrepareOptions {
  /// One entry an object: false leaves it on the device it is on. Empty: all go to `accelerator.device()`.
  std::vector<bool> device_placement = {};
};
struct PrepareModelOptions {
  std::optional<bool> device_placement = {};  ///< false: the model stays on its device; default true
  /// The model is only evaluated: with several processes nothing is averaged, broadcast or kept equal.
  bool evaluation_mode = false;
};
struct PrepareOptimizerOptions {
  std::optional<bool> device_placement = {};  ///< false: its state stays on its device; default true
};
struct PrepareDataLoaderOptions {
  std::optional<bool> device_placement = {};  ///< false: batches stay where the data set makes them; default true
};

}  // namespace accelerate

namespace accelerate::internal {

// What prepare() takes, with the types forgotten; the library fills in `prepared`.
struct ModelItem {
  std::shared_ptr<torch::nn::Module> module;
  std::shared_ptr<ModelCore> prepared = {};
  PrepareModelOptions options = {};
};
struct OptimizerItem {
  std::shared_ptr<torch::optim::Optimizer> optimizer;
  std::shared_ptr<OptimizerCore> prepared = {};
  /// Set for an optimizer given by value: moves it out of the caller's hands, once nothing can fail any more.
  std::shared_ptr<torch::optim::Optimizer> (*take)(torch::optim::Optimizer& given) = nullptr;
  SetOptimizerMode set_mode = nullptr;
  PrepareOptimizerOptions options = {};
};
struct LoaderItem {
  std::shared_ptr<LoaderCore> loader;
  std::shared_ptr<LoaderCore> prepared = {};
  PrepareDataLoaderOptions options = {};
};
struct SchedulerItem {
  std::shared_ptr<SchedulerCore> scheduler;  ///< without an optimizer yet: of the one of the call, or LibTorch's own
  SchedulerBinding prepared = {};
};
using PrepareItem = std::variant<ModelItem, OptimizerItem, LoaderItem, SchedulerItem>;

template <class T>
concept ModuleHolder = requires(const T& holder) {
  typename T::ContainedType;
  holder.is_empty();
  { holder.ptr() } -> std::convertible_to<std::shared_ptr<typename T::ContainedType>>;
};
template <class T>
concept ModuleClass = std::is_convertible_v<T*, torch::nn::Module*>;
template <class T>
concept OptimizerClass = std::is_convertible_v<T*, torch::optim::Optimizer*>;

template <class T>
concept SchedulerClass = std::is_convertible_v<T*, torch::optim::LRScheduler*> ||
    std::is_convertible_v<T*, torch::optim::ReduceLROnPlateauScheduler*>;

template <class T>
struct SharedTarget {};
template <class T>
struct SharedTarget<std::shared_ptr<T>> {
  using type = T;
};
template <class T>
concept SharedModule = ModuleClass<typename SharedTarget<T>::type>;
template <class T>
concept SharedOptimizer = OptimizerClass<typename SharedTarget<T>::type>;

template <class T>
concept SharedScheduler = SchedulerClass<typename SharedTarget<T>::type>;
/// What the verb `prepare_scheduler` takes.
template <class T>
concept AnyScheduler = std::is_same_v<T, Scheduler> || std::is_same_v<T, ReduceLROnPlateau> || SchedulerClass<T> ||
    SharedScheduler<T> || std::is_convertible_v<T, Schedule>;

template <class T>
concept ModalOptimizer = requires(T& optimizer) {
  optimizer.train();
  optimizer.eval();
};
/// How an optimizer of that type is told its mode; null where it has none.
template <class T>
constexpr SetOptimizerMode set_mode_of() {
  if constexpr (ModalOptimizer<T>) {
    return [](torch::optim::Optimizer& optimizer, OptimizerMode mode) {
      auto& typed = static_cast<T&>(optimizer);
      mode == OptimizerMode::kTrain ? typed.train() : typed.eval();
    };
  } else {
    return nullptr;
  }
}

template <class T>
inline constexpr bool is_model = false;
template <class M>
inline constexpr bool is_model<Model<M>> = true;
template <class T>
inline constexpr bool is_loader = false;
template <class B>
inline constexpr bool is_loader<DataLoader<B>> = true;

template <class>
inline constexpr bool always_false = false;

/// LibTorch's schedulers given as lvalues are borrowed.
template <class T>
std::shared_ptr<SchedulerCore> libtorch_scheduler(T&& object) {
  using U = std::remove_cvref_t<T>;
  static_assert(!std::is_const_v<std::remove_reference_t<T>>,
                "accelerate: prepare() steps the scheduler it is given, so it cannot take a const one.");
  if constexpr (std::is_lvalue_reference_v<T>) {
    return make_scheduler(std::shared_ptr<U>(std::shared_ptr<void>(), &object));
  } else {
    return make_scheduler(std::make_shared<U>(std::move(object)));
  }
}
template <class T>
concept PreparableModel = is_model<T> || std::is_same_v<T, torch::jit::Module> || ModuleHolder<T> || SharedModule<T>;
template <class T>
concept PreparableOptimizer = std::is_same_v<T, Optimizer> || SharedOptimizer<T> || OptimizerClass<T>;

template <class... Objects>
inline constexpr bool begins_with_options = false;
template <class First, class... Objects>
inline constexpr bool begins_with_options<First, Objects...> =
    std::is_same_v<std::remove_cvref_t<First>, PrepareOptions>;

/// The user's object as an item. Optimizers given as lvalues are borrowed.
template <class T>
PrepareItem to_item(T&& object) {
  using U = std::remove_cvref_t<T>;
  if constexpr (is_model<U>) {
    if (object.empty()) return ModelItem{};  // moved from, or freed: refused as null
    return ModelItem{object.core()->module(), object.core()};
  } else if constexpr (std::is_same_v<U, torch::jit::Module>) {
    return ModelItem{script_as_module(object)};
  } else if constexpr (ModuleHolder<U>) {
    return ModelItem{object.is_empty() ? nullptr : object.ptr()};
  } else if constexpr (SharedModule<U>) {
    return ModelItem{object};
  } else if constexpr (std::is_same_v<U, Optimizer>) {
    if (object.core() == nullptr) return OptimizerItem{};  // moved from: refused as null
    return OptimizerItem{std::shared_ptr<torch::optim::Optimizer>(object.core(), &object.core()->inner()),
                         object.core()};
  } else if constexpr (SharedOptimizer<U>) {
    OptimizerItem item{object};
    item.set_mode = set_mode_of<typename SharedTarget<U>::type>();
    return item;
  } else if constexpr (OptimizerClass<U>) {
    static_assert(!std::is_const_v<std::remove_reference_t<T>>,
                  "accelerate: prepare() steps the optimizer it is given, so it cannot take a const one.");
    OptimizerItem item{std::shared_ptr<torch::optim::Optimizer>(std::shared_ptr<void>(), &object)};
    item.set_mode = set_mode_of<U>();
    if constexpr (!std::is_lvalue_reference_v<T>) {
      item.take = [](torch::optim::Optimizer& given) -> std::shared_ptr<torch::optim::Optimizer> {
        return std::make_shared<U>(std::move(static_cast<U&>(given)));
      };
    }
    return item;
  } else if constexpr (is_loader<U>) {
    return LoaderItem{object.core()};
  } else if constexpr (std::is_same_v<U, Scheduler>) {
    return SchedulerItem{object.core()};
  } else if constexpr (std::is_same_v<U, ReduceLROnPlateau>) {
    return SchedulerItem{make_scheduler(std::forward<T>(object))};
  } else if constexpr (SharedScheduler<U>) {
    return SchedulerItem{make_scheduler(object)};
  } else if constexpr (SchedulerClass<U>) {
    return SchedulerItem{libtorch_scheduler(std::forward<T>(object))};
  } else if constexpr (std::is_convertible_v<U, Schedule>) {
    Schedule schedule(std::forward<T>(object));
    return SchedulerItem{schedule ? make_scheduler(std::move(schedule)) : nullptr};
  } else if constexpr (ModuleClass<U>) {
    static_assert(
        always_false<T>,
        "accelerate: prepare() shares a module with you, so it cannot take one by reference or value: pass the "
        "TORCH_MODULE holder or a std::shared_ptr, for example std::make_shared<Net>().");
  } else {
    static_assert(
        always_false<T>,
        "accelerate: prepare() takes modules (holder, std::shared_ptr or torch::jit::Module), torch::optim optimizers, "
        "accelerate::DataLoader, accelerate::Scheduler, schedules such as accelerate::cosine() or "
        "accelerate::ReduceLROnPlateau, and torch::optim schedulers.");
  }
}

/// The prepared handle for what was given as `U`.
template <class U>
auto from_item(const PrepareItem& item) {
  if constexpr (std::is_same_v<U, torch::jit::Module> || std::is_same_v<U, Model<torch::jit::Module>>) {
    const auto& core = std::get<ModelItem>(item).prepared;
    return Model<torch::jit::Module>(script_of(core->module()), core);
  } else if constexpr (is_model<U>) {
    const auto& core = std::get<ModelItem>(item).prepared;
    return U(std::dynamic_pointer_cast<typename U::module_type>(core->module()), core);
  } else if constexpr (ModuleHolder<U>) {
    const auto& core = std::get<ModelItem>(item).prepared;
    return Model<typename U::ContainedType>(std::dynamic_pointer_cast<typename U::ContainedType>(core->module()), core);
  } else if constexpr (SharedModule<U>) {
    using M = typename SharedTarget<U>::type;
    const auto& core = std::get<ModelItem>(item).prepared;
    return Model<M>(std::dynamic_pointer_cast<M>(core->module()), core);
  } else if constexpr (is_loader<U>) {
    return U(std::get<LoaderItem>(item).prepared);
  } else if constexpr (std::is_same_v<U, Optimizer> || SharedOptimizer<U> || OptimizerClass<U>) {
    return Optimizer(std::get<OptimizerItem>(item).prepared);
  } else {
    const auto& scheduler = std::get<SchedulerItem>(item);
    return Scheduler(scheduler.scheduler, scheduler.prepared);
  }
}

/// What `free_memory` does to a handle of the user's.
template <class T>
void let_go(T& handle) {
  if constexpr (is_model<T>) {
    handle = T(nullptr, nullptr);
  } else if constexpr (std::is_same_v<T, Scheduler>) {
    handle = Scheduler(nullptr, std::nullopt);
  } else if constexpr (std::is_same_v<T, Optimizer>) {
    handle = Optimizer(nullptr);
  } else if constexpr (is_loader<T>) {
    handle = T(std::shared_ptr<LoaderCore>());
  } else if constexpr (requires { handle = nullptr; }) {
    handle = nullptr;
  } else {
    static_assert(always_false<T>,
                  "accelerate: free_memory() empties prepared handles, holders and pointers; other objects have to be "
                  "destroyed by whoever owns them.");
  }
}

}  // namespace accelerate::internal
