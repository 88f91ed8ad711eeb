#include "accelerate/precision/convert_module.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/rnn.h>

#include <unordered_set>

#include "accelerate/precision/cast_argument.h"

namespace accelerate::internal {
namespace {

/// Batch norms, also of users and scripts. Their kernels take float32 beside inputs of 16 bits, if all of it is, and a
/// mean that moves by a tenth of a percent does not move at all in 8 bits.
bool has_running_statistics(const torch::nn::Module& layer) {
  return layer.named_buffers(/*recurse=*/false).contains("running_mean") &&
         layer.named_buffers(/*recurse=*/false)["running_mean"].defined();
}

class Conversion {
 public:
  explicit Conversion(const PrecisionPolicy& policy) : policy_(policy) {}

  /// Before anything is converted: what such a layer shares with others is kept as well.
  void keep(const torch::nn::Module& layer) {
    if (!has_running_statistics(layer)) return;
    for (const at::Tensor& tensor : layer.parameters(/*recurse=*/false)) seen_.insert(tensor.unsafeGetTensorImpl());
    for (const at::Tensor& tensor : layer.buffers(/*recurse=*/false)) seen_.insert(tensor.unsafeGetTensorImpl());
  }

  void parameter(at::Tensor& parameter) {
    if (!policy_.param || !seen_.insert(parameter.unsafeGetTensorImpl()).second) return;
    const at::Tensor original = parameter.variable_data();
    const at::Tensor converted = in_dtype(original, *policy_.param);
    if (converted.is_same(original)) return;
    parameter.set_data(converted);
    at::Tensor& gradient = parameter.mutable_grad();
    if (gradient.defined()) gradient = in_dtype(gradient.detach(), *policy_.param);
    if (!policy_.master_weights) return;
    rounded_.push_back({parameter, original.to(at::kFloat)});
  }

  void buffer(at::Tensor& buffer) {
    if (!policy_.buffer || !seen_.insert(buffer.unsafeGetTensorImpl()).second) return;
    const at::Tensor converted = in_dtype(buffer.detach(), *policy_.buffer);
    if (!converted.is_same(buffer)) buffer.set_data(converted);
  }

  std::vector<RoundedParameter> take() { return std::move(rounded_); }

 private:
  const PrecisionPolicy& policy_;
  std::unordered_set<const void*> seen_;
  std::vector<RoundedParameter> rounded_;
};

template <class Layer>
bool flatten(torch::nn::Module& layer) {
  auto* recurrent = dynamic_cast<Layer*>(&layer);
  if (recurrent != nullptr) recurrent->flatten_parameters();
  return recurrent != nullptr;
}

}  // namespace

std::vector<RoundedParameter> convert_module(torch::nn::Module& module, const PrecisionPolicy& policy) {
  if (!policy.param && !policy.buffer) return {};
  const at::NoGradGuard no_grad;
  Conversion conversion(policy);
  for (const auto& layer : module.modules()) conversion.keep(*layer);
  for (at::Tensor& parameter : module.parameters()) conversion.parameter(parameter);
  for (at::Tensor& buffer : module.buffers()) {
    if (buffer.defined()) conversion.buffer(buffer);
  }
  // cuDNN wants the weights of a recurrent layer side by side.
  for (const auto& layer : module.modules()) {
    flatten<torch::nn::LSTMImpl>(*layer) || flatten<torch::nn::GRUImpl>(*layer) || flatten<torch::nn::RNNImpl>(*layer);
  }
  return conversion.take();
}

}  // namespace accelerate::internal
