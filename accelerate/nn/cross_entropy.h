// Includes LibTorch's modules, so that accelerate.h does not include it: whoever builds a net has them anyway.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/options/loss.h>
#include <torch/nn/pimpl.h>

#include <ostream>

namespace accelerate::nn {
namespace functional {

/// `torch::nn::functional::cross_entropy(input.to(torch::kFloat), target, options)`, without the float32 copy of the
/// logits and of their gradient: 16-bit logits, (n, classes), are read once in forward and once in backward, arithmetic
/// and loss are of float32, and the gradient is of the logits' dtype. Nothing is asked of the host, so that captured
/// steps capture it. Autocast leaves 16-bit logits as they are.
///
/// Fused for class indices (int64) over float32, bfloat16 and float16 on CPUs and NVIDIA GPUs, with any reduction,
/// `ignore_index` and `label_smoothing`; also for (classes) and (n, classes, ...) where the classes of a row lie side
/// by side. Everything else (class weights, probabilities, float64) is LibTorch's function over the same numbers in
/// float32 or more. Two sums of the same numbers in another order differ by rounding.
///
/// An ignored row has loss and gradient 0, whatever its logits are. A target that is no class is a DataError on the CPU
/// and a failed assertion of the device on a GPU, as in LibTorch. The gradient cannot be differentiated once more: a
/// UsageError, where that is tried. Source: torch.nn.functional.cross_entropy; the idea is Liger-Kernel's.
at::Tensor cross_entropy(const at::Tensor& input, const at::Tensor& target,
                         const torch::nn::functional::CrossEntropyFuncOptions& options = {});

}  // namespace functional

/// `torch::nn::CrossEntropyLoss` over the function above: the same options and the same state-dict keys.
class CrossEntropyLossImpl : public torch::nn::Cloneable<CrossEntropyLossImpl> {
 public:
  explicit CrossEntropyLossImpl(torch::nn::CrossEntropyLossOptions given = {});
  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& input, const at::Tensor& target);

  torch::nn::CrossEntropyLossOptions options;
  at::Tensor weight;  ///< one number a class, or undefined
};
TORCH_MODULE(CrossEntropyLoss);

}  // namespace accelerate::nn
