#include "accelerate/nn/kernels/operators.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/nn/kernels/device.h"

namespace accelerate::internal::losses {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

const DeviceLosses* losses_on(c10::DeviceType type) {
  static const std::vector<DeviceLosses> all = builtin_devices();
  const auto found = std::find_if(all.begin(), all.end(), [&](const DeviceLosses& one) { return one.type == type; });
  return found == all.end() ? nullptr : &*found;
}

Rows checked(const at::Tensor& logits, const at::Tensor& targets, int64_t ignored, double smoothing) {
  TORCH_CHECK(is_known(logits), "accelerate: no cross entropy of logits of ", logits.scalar_type(), " on ",
              logits.device(), "; dense float, half and bfloat16 have one, on the CPU and on what this is built for");
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "accelerate: logits are ", logits.sizes(),
              ", expected rows of classes");
  TORCH_CHECK(targets.dim() == 1 && targets.size(0) == logits.size(0) && targets.scalar_type() == at::kLong &&
                  targets.device() == logits.device(),
              "accelerate: targets are ", targets.sizes(), " of ", targets.scalar_type(), " on ", targets.device(),
              ", expected one of int64 for each row of ", logits.sizes(), " on ", logits.device());
  TORCH_CHECK(smoothing >= 0 && smoothing <= 1, "accelerate: label_smoothing is ", smoothing, ", expected 0 to 1");
  const bool side_by_side = logits.size(1) == 1 || logits.stride(1) == 1;
  return {side_by_side ? logits : logits.contiguous(), targets.contiguous(), ignored, smoothing};
}

/// The loss, normalizers of the rows, and the share of one in a mean, which is empty if there is none.
using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Result forward_operator(const at::Tensor& logits, const at::Tensor& targets, int64_t reduction, int64_t ignore_index,
                        double label_smoothing) {
  const Rows rows = checked(logits, targets, ignore_index, label_smoothing);
  const DeviceLosses& device = *losses_on(logits.device().type());
  const auto options = logits.options().dtype(at::kFloat);
  const Statistics statistics{at::empty({logits.size(0)}, options), at::empty({2, logits.size(0)}, options)};
  device.forward(rows, statistics);
  if (reduction == at::Reduction::None) return {statistics.losses, statistics.normalizers, at::empty({0}, options)};
  TORCH_CHECK(reduction == at::Reduction::Mean || reduction == at::Reduction::Sum, "accelerate: there is no reduction ",
              reduction);
  Reduced reduced{at::empty({}, options), {}};
  if (reduction == at::Reduction::Mean) reduced.share = at::empty({}, options);
  device.reduce(rows, statistics.losses, reduced);
  return {reduced.loss, statistics.normalizers, reduced.share.defined() ? reduced.share : at::empty({0}, options)};
}

at::Tensor backward_operator(const at::Tensor& gradients, const at::Tensor& logits, const at::Tensor& targets,
                             const at::Tensor& normalizers, const at::Tensor& share, int64_t ignore_index,
                             double label_smoothing) {
  const at::AutoDispatchBelowADInplaceOrView below;
  const Rows rows = checked(logits, targets, ignore_index, label_smoothing);
  const auto is_float = [&](const at::Tensor& tensor) {
    return tensor.scalar_type() == at::kFloat && tensor.device() == logits.device();
  };
  TORCH_CHECK(is_float(gradients) && (gradients.dim() == 0 || gradients.sizes() == targets.sizes()),
              "accelerate: gradients of ", gradients.sizes(), " of ", gradients.scalar_type(), " on ",
              gradients.device(), ", expected float, one or as many as targets, on ", logits.device());
  TORCH_CHECK(is_float(normalizers) && normalizers.is_contiguous() &&
                  normalizers.sizes() == at::IntArrayRef({2, logits.size(0)}) && is_float(share) && share.numel() <= 1,
              "accelerate: normalizers and share are not those of this cross entropy");
  const at::Tensor gradient = at::empty(logits.sizes(), logits.options().memory_format(at::MemoryFormat::Contiguous));
  losses_on(logits.device().type())
      ->backward(rows, normalizers, {gradients, share.numel() == 1 ? share : at::Tensor()}, gradient);
  return gradient;
}

void define_all();

template <class Function>
c10::TypedOperatorHandle<Function> find(const char* name) {
  define_all();
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

/// Stands where the gradient would have a graph of its own.
struct SecondDerivative final : torch::autograd::Node {
  using Node::Node;
  variable_list apply(variable_list&&) override {
    throw UsageError({.place = "cross_entropy",
                      .what = "Its gradient cannot be differentiated",
                      .got = "a loss that depends on a gradient of accelerate::nn::functional::cross_entropy",
                      .expected = "one backward pass through it",
                      .remedy = "Use torch::nn::functional::cross_entropy(logits.to(torch::kFloat), labels) there"});
  }
};

/// Named by its type, as LibTorch's own nodes are.
struct CrossEntropyBackward final : torch::autograd::Node {
  SavedVariable logits, targets, normalizers, share;
  int64_t ignore_index = 0;
  double label_smoothing = 0;

  variable_list apply(variable_list&& gradients) override {
    static const auto known = find<decltype(backward_operator)>("accelerate::cross_entropy_backward");
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!gradients[0].defined() || !task_should_compute_output(0)) return {at::Tensor()};
    const at::Tensor input = logits.unpack();
    at::Tensor gradient = known.call(gradients[0], input, targets.unpack(), normalizers.unpack(), share.unpack(),
                                     ignore_index, label_smoothing);
    if (at::GradMode::is_enabled()) {
      const auto second = std::make_shared<SecondDerivative>(torch::autograd::collect_next_edges(gradients[0], input));
      torch::autograd::set_history(gradient, second);
    }
    return {gradient};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable* saved : {&logits, &targets, &normalizers, &share}) saved->reset_data();
  }
};

Result forward_with_graph(c10::DispatchKeySet keys, const at::Tensor& logits, const at::Tensor& targets,
                          int64_t reduction, int64_t ignore_index, double label_smoothing) {
  static const auto known = find<decltype(forward_operator)>("accelerate::cross_entropy");
  TORCH_CHECK(!torch::autograd::isFwGradDefined(logits), "accelerate: cross_entropy has no forward-mode derivative");
  Result result = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    return known.redispatch(keys & c10::after_autograd_keyset, logits, targets, reduction, ignore_index,
                            label_smoothing);
  }();
  if (!torch::autograd::compute_requires_grad(logits)) return result;
  const auto node = std::make_shared<CrossEntropyBackward>();
  node->set_next_edges(torch::autograd::collect_next_edges(logits));
  node->logits = SavedVariable(logits, /*is_output=*/false);
  node->targets = SavedVariable(targets, /*is_output=*/false);
  node->normalizers = SavedVariable(std::get<1>(result), /*is_output=*/false);
  node->share = SavedVariable(std::get<2>(result), /*is_output=*/false);
  node->ignore_index = ignore_index;
  node->label_smoothing = label_smoothing;
  torch::autograd::set_history(std::get<0>(result), node);
  return result;
}

/// Defined on the first use: a static initialiser of a static library would be dropped where nobody calls it.
class Library {
 public:
  Library() : library_(torch::Library::FRAGMENT, "accelerate", std::nullopt, __FILE__, __LINE__) {
    using c10::DispatchKey;
    // Autocast has nothing to convert: it passes by operators that it does not know.
    library_.def(
        "cross_entropy(Tensor logits, Tensor targets, int reduction, int ignore_index, float label_smoothing) -> "
        "(Tensor loss, Tensor normalizers, Tensor share)");
    library_.impl("cross_entropy", torch::dispatch(DispatchKey::CompositeExplicitAutograd, forward_operator));
    library_.impl("cross_entropy", torch::dispatch(DispatchKey::Autograd, forward_with_graph));
    library_.def(
        "cross_entropy_backward(Tensor grad_loss, Tensor logits, Tensor targets, Tensor normalizers, Tensor share, "
        "int ignore_index, float label_smoothing) -> Tensor");
    library_.impl("cross_entropy_backward", torch::dispatch(DispatchKey::CompositeExplicitAutograd, backward_operator));
    library_.impl("cross_entropy_backward", torch::dispatch(DispatchKey::Autograd, fallthrough()));
    for (const char* name : {"cross_entropy", "cross_entropy_backward"}) {
      library_.impl(name, torch::dispatch(DispatchKey::ADInplaceOrView, fallthrough()));
    }
  }

 private:
  static torch::CppFunction fallthrough() { return torch::CppFunction::makeFallthrough(); }
  torch::Library library_;
};

void define_all() { static const Library library; }

}  // namespace

bool is_known(const at::Tensor& logits) {
  const at::ScalarType dtype = logits.scalar_type();
  return (dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16) && logits.layout() == at::kStrided &&
         losses_on(logits.device().type()) != nullptr;
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const CrossEntropy& options) {
  static const auto known = find<decltype(forward_operator)>("accelerate::cross_entropy");
  return std::get<0>(known.call(logits, targets, options.reduction, options.ignore_index, options.label_smoothing));
}

}  // namespace accelerate::internal::losses
