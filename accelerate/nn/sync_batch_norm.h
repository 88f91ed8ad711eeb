// Includes LibTorch's modules, so that accelerate.h does not include it: whoever builds a net has them anyway.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/pimpl.h>

#include <memory>
#include <optional>
#include <ostream>
#include <string>

#include "accelerate/comm/group.h"

namespace accelerate {
namespace internal {

/// Found in a module by `dynamic_cast`: the ranks that it takes its statistics over.
class SyncBatchNormSlot {
 public:
  virtual ~SyncBatchNormSlot() = default;
  /// A group of one unbinds.
  void bind(const Group& group) { core_ = group.core(); }
  /// Of one where nothing is bound, or the ranks are gone.
  Group group() const { return Group(core_.lock()); }

 private:
  std::weak_ptr<GroupCore> core_;
};

/// What a batch norm has; tensors may be undefined.
struct BatchNormState {
  at::Tensor weight = {}, bias = {};
  at::Tensor running_mean = {}, running_var = {}, num_batches_tracked = {};
  std::optional<double> momentum = {};  ///< unset: the running values are means over all batches
  double eps = 1e-5;
};
/// Training: normalises with the statistics of all ranks' batches and lets the running values follow them.
at::Tensor sync_batch_norm(const at::Tensor& input, const BatchNormState& state, const Group& group);

/// Binds every synchronised batch norm of `module` to the ranks; a group of one unbinds. The number of them.
int64_t bind_batch_norms(torch::nn::Module& module, const Group& group);
/// Whether one is bound to several ranks.
bool has_bound_batch_norm(torch::nn::Module& module);

[[noreturn]] void throw_not_enough_dimensions(int64_t dimensions);

}  // namespace internal

namespace nn {

/// What the four types below share. `Plain` is the batch norm of LibTorch that one is.
template <class Self, class Plain>
class SyncBatchNormOf : public Plain, public internal::SyncBatchNormSlot {
 public:
  using Plain::Plain;

  at::Tensor forward(const at::Tensor& input) {
    const Group ranks = group();
    if (ranks.size() == 1 || !this->is_training()) return Plain::forward(input);
    this->_check_input_dim(input);
    internal::BatchNormState state{.weight = this->weight, .bias = this->bias, .eps = this->options.eps()};
    state.momentum = this->options.momentum();
    if (this->options.track_running_stats()) {
      state.running_mean = this->running_mean;
      state.running_var = this->running_var;
      state.num_batches_tracked = this->num_batches_tracked;
    }
    return internal::sync_batch_norm(input, state, ranks);
  }

  std::shared_ptr<torch::nn::Module> clone(const std::optional<torch::Device>& device = std::nullopt) const override {
    auto copy = std::make_shared<Self>(this->options);
    copy->take(*this, [&](const at::Tensor& tensor) {
      const at::Tensor own =
          tensor.detach().to(device.value_or(tensor.device()), /*non_blocking=*/false, /*copy=*/true);
      return own.set_requires_grad(tensor.requires_grad());
    });
    copy->train(this->is_training());
    return copy;
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "accelerate::nn::" << Self::kName << "(" << this->options.num_features()
           << ", eps=" << this->options.eps() << ")";
  }

  /// Its parameters and buffers become `from(those of other)`.
  template <class From>
  void take(const Plain& other, From from) {
    const auto parameter = [&](const char* name, at::Tensor& own, const at::Tensor& theirs) {
      if (own.defined()) this->parameters_[name] = own = from(theirs);
    };
    parameter("weight", this->weight, other.weight);
    parameter("bias", this->bias, other.bias);
    // Registered ones stay; they take over memory, dtype and device.
    const auto buffer = [&](at::Tensor& own, const at::Tensor& theirs) {
      if (own.defined()) own.set_data(from(theirs));
    };
    buffer(this->running_mean, other.running_mean);
    buffer(this->running_var, other.running_var);
    buffer(this->num_batches_tracked, other.num_batches_tracked);
  }
};

/// Batch normalisation with the statistics of all processes: `torch::nn::BatchNorm1d/2d/3d` with another type name, the
/// same options and the same state-dict keys. `prepare` binds it to the processes; on one process, in evaluation, in a
/// model prepared for evaluation alone and after training it is the plain one. Batches may have different sizes, also
/// none on some processes; every process calls it in the same order, in forward and backward. Not inside
/// `join_uneven_inputs`, and not differentiable twice. Source: `torch.nn.SyncBatchNorm`, which is for GPUs only.
class SyncBatchNorm1dImpl : public SyncBatchNormOf<SyncBatchNorm1dImpl, torch::nn::BatchNorm1dImpl> {
 public:
  static constexpr const char* kName = "SyncBatchNorm1d";
  using SyncBatchNormOf::SyncBatchNormOf;
};
TORCH_MODULE(SyncBatchNorm1d);

class SyncBatchNorm2dImpl : public SyncBatchNormOf<SyncBatchNorm2dImpl, torch::nn::BatchNorm2dImpl> {
 public:
  static constexpr const char* kName = "SyncBatchNorm2d";
  using SyncBatchNormOf::SyncBatchNormOf;
};
TORCH_MODULE(SyncBatchNorm2d);

class SyncBatchNorm3dImpl : public SyncBatchNormOf<SyncBatchNorm3dImpl, torch::nn::BatchNorm3dImpl> {
 public:
  static constexpr const char* kName = "SyncBatchNorm3d";
  using SyncBatchNormOf::SyncBatchNormOf;
};
TORCH_MODULE(SyncBatchNorm3d);

/// For inputs of any number of dimensions from two on, as the original's.
class SyncBatchNormImpl : public SyncBatchNormOf<SyncBatchNormImpl, torch::nn::BatchNorm2dImpl> {
 public:
  static constexpr const char* kName = "SyncBatchNorm";
  using SyncBatchNormOf::SyncBatchNormOf;

 protected:
  void _check_input_dim(const at::Tensor& input) override {
    if (input.dim() < 2) internal::throw_not_enough_dimensions(input.dim());
  }
};
TORCH_MODULE(SyncBatchNorm);

/// Replaces every plain batch norm in the `torch::nn::Sequential`s of `module` by the synchronised one, which has the
/// very same parameters and buffers; call it before `prepare`. Returns how many. A member's type cannot be replaced:
/// throws UsageError with the names of those that stand elsewhere, and changes nothing then; declare them as
/// `SyncBatchNorm2d`. Source: `torch.nn.SyncBatchNorm.convert_sync_batchnorm`.
int64_t convert_sync_batchnorm(torch::nn::Module& module);

}  // namespace nn
}  // namespace accelerate
