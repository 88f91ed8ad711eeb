#include "accelerate/nn/cross_entropy.h"

#include <ATen/ATen.h>
#include <ATen/TensorUtils.h>
#include <torch/nn/functional/loss.h>

#include <optional>
#include <utility>

#include "accelerate/nn/kernels/operators.h"

namespace accelerate::nn {
namespace functional {
namespace {

using Options = torch::nn::functional::CrossEntropyFuncOptions;

at::Tensor widened(const at::Tensor& tensor) {
  const bool is_narrow = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
  return is_narrow ? tensor.to(at::kFloat) : tensor;
}

at::Tensor by_libtorch(const at::Tensor& input, const at::Tensor& target, Options options) {
  const at::Tensor wide = widened(input);
  // A module's weight is converted with the rest of a model.
  if (options.weight().defined()) options.weight(options.weight().to(wide.scalar_type()));
  return torch::nn::functional::cross_entropy(wide, widened(target), options);
}

struct Rows {
  at::Tensor logits, targets;
};

/// (n, classes) and (n), if that is a view whose rows lie in one piece.
std::optional<Rows> rows_of(const at::Tensor& input, const at::Tensor& target) {
  if (input.dim() == 0 || input.dim() != target.dim() + 1) return std::nullopt;
  if (input.dim() == 1) return Rows{input.unsqueeze(0), target.unsqueeze(0)};
  if (input.dim() == 2) return Rows{input, target};
  const at::Tensor last = input.movedim(1, -1);
  if (last.sizes().slice(0, target.dim()) != target.sizes() || last.numel() == 0) return std::nullopt;
  const int64_t classes = input.size(1);
  if (classes > 1 && last.stride(-1) != 1) return std::nullopt;
  const std::vector<int64_t> shape{last.numel() / classes, classes};
  if (!at::detail::computeStride(last.sizes(), last.strides(), shape)) return std::nullopt;
  return Rows{last.view(shape), target.reshape({-1})};
}

std::optional<Rows> fused_rows(const at::Tensor& input, const at::Tensor& target, const Options& options) {
  if (options.weight().defined() || !internal::losses::is_known(input) || target.scalar_type() != at::kLong ||
      target.device() != input.device() || options.label_smoothing() < 0 || options.label_smoothing() > 1) {
    return std::nullopt;
  }
  auto rows = rows_of(input, target);
  // LibTorch says what is wrong with other sizes.
  if (!rows || rows->logits.size(0) != rows->targets.size(0) || rows->logits.size(1) == 0) return std::nullopt;
  return rows;
}

}  // namespace

at::Tensor cross_entropy(const at::Tensor& input, const at::Tensor& target, const Options& options) {
  const auto rows = fused_rows(input, target, options);
  if (!rows) return by_libtorch(input, target, options);
  const auto reduction = torch::enumtype::reduction_get_enum(options.reduction());
  const at::Tensor loss = internal::losses::cross_entropy(rows->logits, rows->targets,
                                                          {.reduction = static_cast<int64_t>(reduction),
                                                           .ignore_index = options.ignore_index(),
                                                           .label_smoothing = options.label_smoothing()});
  return loss.dim() == target.dim() || loss.dim() == 0 ? loss : loss.view(target.sizes());
}

}  // namespace functional

CrossEntropyLossImpl::CrossEntropyLossImpl(torch::nn::CrossEntropyLossOptions given) : options(std::move(given)) {
  CrossEntropyLossImpl::reset();
}

void CrossEntropyLossImpl::reset() { weight = register_buffer("weight", options.weight()); }

void CrossEntropyLossImpl::pretty_print(std::ostream& stream) const { stream << "accelerate::nn::CrossEntropyLoss()"; }

at::Tensor CrossEntropyLossImpl::forward(const at::Tensor& input, const at::Tensor& target) {
  auto now = options;
  return functional::cross_entropy(input, target, now.weight(weight));
}

}  // namespace accelerate::nn
