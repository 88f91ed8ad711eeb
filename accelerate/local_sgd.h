#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "accelerate/accelerator.h"

namespace accelerate {

struct LocalSGDOptions {
  int64_t local_sgd_steps = 1;  ///< steps of each process on its own between two averages
  bool enabled = true;          ///< false: nothing changes
};

/// While it lives each process trains on its own, without averaging gradients; `step()`, after each update, averages
/// the parameters every `local_sgd_steps` steps, about 25 MB in one exchange. Parameters of whole numbers, buffers and
/// optimizer state stay each process's own. Nothing but a counter in one process. `finish()` averages once more and
/// ends it; a destructor does the same where nothing was thrown: what fails there is logged, and thrown by the next
/// training verb of the Accelerator. Reached by every process. The Accelerator may be moved meanwhile, and must not end
/// before it. With fp16 each process scales its loss on its own, and an average makes the scales equal. Source:
/// `accelerate.LocalSGD`; Stich, Local SGD Converges Fast and Communicates Little, 2019.
class [[nodiscard(
    "keep the guard: `accelerate::LocalSGD local(accelerator, model, {.local_sgd_steps = 8});`")]] LocalSGD {
 public:
  /// Throws UsageError for `local_sgd_steps` below 1, a model of another Accelerator, one that is not held whole and
  /// one whose optimizer an Ema follows by itself.
  template <class M>
  LocalSGD(Accelerator & accelerator, const Model<M>& model, LocalSGDOptions options)
      : LocalSGD(accelerator, model.core(), options, accelerator.no_sync(model)) {}
  ~LocalSGD();
  LocalSGD(LocalSGD &&) noexcept;
  LocalSGD& operator=(LocalSGD&&) = delete;

  /// After each update of the model. Throws CommError when a rank is lost, UsageError after `finish()`.
  void step();
  /// Averages a last time; gradients are averaged again from now on. Once.
  void finish();
  int64_t num_steps() const { return num_steps_; }

 private:
  LocalSGD(Accelerator & accelerator, const std::shared_ptr<internal::ModelCore>& model, LocalSGDOptions options,
           GradientSyncScope local);
  void require_unfollowed() const;
  void average();

  internal::Runtime* runtime_;  ///< stays where it is when the Accelerator is moved
  LocalSGDOptions options_;
  std::optional<GradientSyncScope> local_;  ///< empty: not enabled, or finished
  std::shared_ptr<void> parted_;            ///< with a scaled loss: each process has a scale of its own
  std::vector<at::Tensor> parameters_;
  std::shared_ptr<internal::MasterWeights> masters_;  ///< which are averaged instead; null: there are none
  int64_t num_steps_ = 0;
  int exceptions_;  ///< that were on their way when it was made
  bool finished_ = false;
};

}  // namespace accelerate
