#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "accelerate/optim/step_result.h"
#include "accelerate/tensor/parameters.h"
#include "accelerate/tensor/state.h"

namespace accelerate {

class Optimizer;

/// How the averages follow the weights. The first `update_after_step + 1` updates copy them; n counts those after.
/// Source: `torch.optim.swa_utils.get_ema_multi_avg_fn`; warm-up and ramp: `EMAModel` of diffusers, `ModelEmaV3` of
/// timm.
struct EmaOptions {
  double decay = 0.999;           ///< share of the average that each update keeps, 0 to 1
  double min_decay = 0;           ///< the least that warm-up or ramp may give, at most `decay`
  bool use_ema_warmup = false;    ///< decay 1 - (1 + n / inv_gamma)^-power until it reaches `decay`
  double inv_gamma = 1;           ///< of the warm-up, more than 0
  double power = 2.0 / 3.0;       ///< of the warm-up, more than 0; 2/3 for a million updates, 3/4 for fewer
  bool ramp_up = false;           ///< decay (1 + n) / (10 + n) until then: what diffusers does without warm-up
  int64_t update_after_step = 0;  ///< so many updates, and the one after them, copy the weights
  bool use_buffers = false;       ///< floating-point buffers are averaged, too; false: they stay the model's own
};

namespace internal {
struct EmaEntry;
class EmaHistory;
}  // namespace internal

/// What `Ema::update` did. A handle: keeping it waits for nothing. With a scaled loss on a GPU the device decides, and
/// asking waits until the optimizer's update is done.
class EmaUpdate {
 public:
  /// Nothing.
  EmaUpdate() = default;
  EmaUpdate(std::shared_ptr<internal::EmaHistory> history, std::shared_ptr<internal::EmaEntry> entry)
      : history_(std::move(history)), entry_(std::move(entry)) {}

  /// The averages followed the weights; false after a step that did not change these.
  bool applied() const;
  /// The share that the averages kept; 0 when they were copied, or did not follow.
  double decay() const;
  /// Whether both answer without waiting.
  bool known() const;

 private:
  std::shared_ptr<internal::EmaHistory> history_;
  std::shared_ptr<internal::EmaEntry> entry_;
};

namespace internal {

/// The share that update number `step` (from 1) keeps; 0 copies.
double ema_decay(const EmaOptions& options, int64_t step);

class EmaCore;
class MasterWeights;
class MemoryOwners;

}  // namespace internal

/// The guard of `Ema::apply`: the model computes with the averages until it ends, by an exception, too.
class [[nodiscard("keep the guard: `auto weights = ema.apply();`")]] EmaWeights {
 public:
  explicit EmaWeights(std::shared_ptr<internal::EmaCore> core) : core_(std::move(core)) {}
  ~EmaWeights();
  EmaWeights(EmaWeights &&) noexcept = default;
  EmaWeights& operator=(EmaWeights&&) = delete;

 private:
  std::shared_ptr<internal::EmaCore> core_;
};

/// Exponential moving averages of a model's weights, for evaluation and for the model that is saved:
///
///   accelerate::Ema ema(model, {.decay = 0.999});
///   ...
///   ema.update(optimizer.step());        // in the loop; or once, before it: ema.follow(optimizer);
///   ...
///   auto weights = ema.apply();          // until the end of this block the model has the averages
///
/// It starts with the weights that the model has, or with the float32 masters that those are rounded from, which it
/// then follows. Averages are of the weights' dtype, float32 for narrower ones; tied weights have one. They lie where
/// the weights lie and follow them when the model is moved. Whole numbers (parameters and buffers) are not averaged:
/// they stay the model's own. Nothing is exchanged between processes: where their weights are equal, so are their
/// averages. Where a process trains on its own, in `LocalSGD`, under `no_sync` or in `join_uneven_inputs`, the averages
/// are its own, too: with LocalSGD call `update` after `local.step()`. The state is `n_averaged`, the number of
/// updates, and `module.<key>` for each average (`module.<i>.<key>` with several models), the names of Python's
/// `AveragedModel`; the options are not part of it. Not for use by two threads at once.
class Ema final : public Stateful {
 public:
  /// Of a prepared model. Throws ConfigError for options out of their ranges, UsageError for a model without weights.
  template <class Model>
  requires requires(const Model& model) { model.core()->table(); }
  explicit Ema(const Model& model, EmaOptions options = {})
      : Ema(std::vector<ParameterTable>{model.core()->table()}, options, masters_of(model)) {
    if constexpr (requires { model.core()->memory(); }) count_in(model.core()->memory());
  }
  /// Of several, in one state: `Ema ema(std::tie(generator, encoder))`.
  template <class... Models>
  explicit Ema(const std::tuple<Models...>& models, EmaOptions options = {})
      : Ema(std::apply([](const auto&... model) { return std::vector<ParameterTable>{model.core()->table()...}; },
                       models),
            options, masters_of(std::get<0>(models))) {
    if constexpr (requires { std::get<0>(models).core()->memory(); }) count_in(std::get<0>(models).core()->memory());
  }
  Ema(const std::vector<ParameterTable>& tables, EmaOptions options);
  ~Ema() override;
  Ema(Ema&&) noexcept;
  Ema& operator=(Ema&&) noexcept;

  /// Follows the weights if `result` is that of a step that changed them: `ema.update(optimizer.step())`. Micro-steps
  /// that accumulate do not count. Where the device decides whether a step changed them, it decides here, too, and
  /// nobody waits; only for weights of several kinds of devices the host does. Throws UsageError while the averages are
  /// applied, or when a weight has another shape than at the beginning.
  EmaUpdate update(const StepResult& result);

  /// From now on the averages follow each `optimizer.step()` by themselves, with the numbers of
  /// `update(optimizer.step())` bit for bit: AdamW, Adam, SGD and Lion write them in their own pass over the weights on
  /// a GPU, wherever they update through this library's kernels. What these do not update (buffers, frozen weights) and
  /// all of other optimizers follows in a pass of its own at the end of the step. It lasts as long as both do.
  /// Meanwhile `update` throws UsageError, and `step()` does where `update` would, before anything has changed. Throws
  /// UsageError for an optimizer that has none of the weights or is followed by another Ema, and for a second one. Not
  /// inside LocalSGD.
  void follow(const Optimizer& optimizer);

  /// Puts the averages into the model until the guard ends; then the weights are again what they were, bit for bit.
  /// Costs a copy of the weights while it lasts. Do not train meanwhile: what is written to the weights is lost. Throws
  /// UsageError when they are applied already.
  EmaWeights apply();
  bool applied() const;

  /// Number of updates, those that copied included. May wait like EmaUpdate.
  int64_t optimization_step() const;
  /// The share that the last update kept, be it before a `load`; 0 before the first that averaged. May wait like
  /// EmaUpdate.
  double cur_decay_value() const;

  void save(StateWriter& writer) const override;
  /// Throws UsageError while the averages are applied.
  void load(StateReader& reader) override;

  const std::shared_ptr<internal::EmaCore>& core() const { return core_; }

 private:
  using Masters = std::shared_ptr<internal::MasterWeights>;
  Ema(const std::vector<ParameterTable>& tables, EmaOptions options, Masters masters);
  template <class Model>
  static Masters masters_of(const Model& model) {
    if constexpr (requires { model.core()->masters(); }) {
      return model.core()->masters();
    } else {
      return nullptr;
    }
  }
  /// For the error that says who has the device's memory; null: nobody asks.
  void count_in(const std::shared_ptr<internal::MemoryOwners>& owners) const;
  std::shared_ptr<internal::EmaCore> core_;
};

}  // namespace accelerate
