#include "accelerate/step/tape/entry.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <unordered_set>

#include "accelerate/tensor/intercept.h"

namespace accelerate::internal {

bool Argument::takes(Ref::Kind what) const {
  return std::any_of(tensors.begin(), tensors.end(), [what](const Ref& ref) { return ref.kind == what; });
}

Mode Mode::now(c10::DeviceType device) {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  const c10::DispatchKeySet own = observation_keys();
  Mode mode{.included = (keys.included_ - own).raw_repr(),
            .excluded = (keys.excluded_ - own).raw_repr(),
            .grad = at::GradMode::is_enabled(),
            .inference = c10::InferenceMode::is_enabled()};
  if (at::autocast::is_autocast_enabled(device)) mode.autocast = at::autocast::get_autocast_dtype(device);
  return mode;
}

bool Mode::is_now(c10::DeviceType device) const {
  const auto keys = c10::impl::tls_local_dispatch_key_set();
  const c10::DispatchKeySet own = observation_keys();
  if ((keys.included_ - own).raw_repr() != included || (keys.excluded_ - own).raw_repr() != excluded) return false;
  const c10::AutogradState& autograd = c10::AutogradState::get_tls_state();
  if (autograd.get_grad_mode() != grad || autograd.get_inference_mode() != inference) return false;
  // Whether autocast is on is among the keys.
  return !autocast || at::autocast::get_autocast_dtype(device) == *autocast;
}

ModeScope::ModeScope(const Mode& mode, c10::DeviceType device)
    : device_(device),
      keys_(c10::impl::tls_local_dispatch_key_set()),
      grad_(at::GradMode::is_enabled()),
      inference_(c10::InferenceMode::is_enabled()),
      autocast_(at::autocast::get_autocast_dtype(device)) {
  auto keys = keys_;
  keys.included_ = c10::DispatchKeySet(c10::DispatchKeySet::RAW, mode.included);
  keys.excluded_ = c10::DispatchKeySet(c10::DispatchKeySet::RAW, mode.excluded) | observation_keys();
  c10::impl::_force_tls_local_dispatch_key_set(keys);
  at::GradMode::set_enabled(mode.grad);
  c10::AutogradState::get_tls_state().set_inference_mode(mode.inference);
  if (mode.autocast) at::autocast::set_autocast_dtype(device, *mode.autocast);
}

ModeScope::~ModeScope() {
  c10::impl::_force_tls_local_dispatch_key_set(keys_);
  c10::AutogradState::get_tls_state().set_inference_mode(inference_);
  at::GradMode::set_enabled(grad_);
  at::autocast::set_autocast_dtype(device_, autocast_);
}

bool same_constant(const c10::IValue& a, const c10::IValue& b) {
  if (a.isNone() || b.isNone()) return a.isNone() && b.isNone();
  if (a.isInt()) return b.isInt() && a.toInt() == b.toInt();
  if (a.isBool()) return b.isBool() && a.toBool() == b.toBool();
  if (a.isDouble()) {
    if (!b.isDouble()) return false;
    const double x = a.toDouble(), y = b.toDouble();
    return x == y ? std::signbit(x) == std::signbit(y) : std::isnan(x) && std::isnan(y);
  }
  if (a.isList()) {
    if (!b.isList()) return false;
    const auto x = a.toListRef(), y = b.toListRef();
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), same_constant);
  }
  if (a.isGenerator()) {
    return b.isGenerator() && a.toGenerator().unsafeGetGeneratorImpl() == b.toGenerator().unsafeGetGeneratorImpl();
  }
  if (a.isObject() || b.isObject()) return a.is(b);
  return a.tagKind() == b.tagKind() && a == b;
}

namespace {

bool holds_tensors(const c10::IValue& value) {
  if (value.isTensorList()) return true;
  if (!value.isList()) return false;
  const auto items = value.toListRef();
  return std::any_of(items.begin(), items.end(), [](const c10::IValue& item) { return item.isTensor(); });
}

}  // namespace

Argument argument_of(const c10::IValue& value, const std::function<Ref(const at::Tensor&)>& ref_of) {
  Argument argument;
  if (value.isTensor()) {
    argument.kind = Argument::Kind::kTensor;
    argument.tensors.push_back(ref_of(value.toTensor()));
  } else if (holds_tensors(value)) {
    argument.kind = value.isTensorList() ? Argument::Kind::kTensors : Argument::Kind::kOptionalTensors;
    for (const c10::IValue& item : value.toListRef()) {
      argument.tensors.push_back(item.isTensor() ? ref_of(item.toTensor()) : Ref{});
    }
  } else {
    argument.constant = value;
  }
  return argument;
}

uint64_t kernel_settings() {
  const at::Context& context = at::globalContext();
  uint64_t settings = 0;
  for (const auto one :
       {static_cast<int>(context.float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL)),
        static_cast<int>(context.float32Precision(at::Float32Backend::CUDA, at::Float32Op::CONV)),
        static_cast<int>(context.float32Precision(at::Float32Backend::CUDA, at::Float32Op::RNN)),
        static_cast<int>(context.allowFP16ReductionCuBLAS()), static_cast<int>(context.allowBF16ReductionCuBLAS())}) {
    settings = settings << 3 | static_cast<uint64_t>(one);
  }
  for (const bool one :
       {context.allowFP16AccumulationCuBLAS(), context.deterministicAlgorithms(), context.deterministicCuDNN(),
        context.benchmarkCuDNN(), context.userEnabledCuDNN(), context.userEnabledFlashSDP(),
        context.userEnabledMemEfficientSDP(), context.userEnabledMathSDP(), context.userEnabledCuDNNSDP()}) {
    settings = settings << 1 | static_cast<uint64_t>(one);
  }
  return settings;
}

namespace {

/// Those of parameters' accumulators are the strategies' own.
bool has_hooks(torch::autograd::Node& node) {
  if (!node.tensor_pre_hooks().empty() || !node.retains_grad_hooks().empty()) return true;
  if (auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(&node)) return hooks_of(leaf->variable) != 0;
  return !node.pre_hooks().empty() || !node.post_hooks().empty();
}

}  // namespace

std::string find_leaves(const at::Tensor& root, std::vector<Leaf>& leaves) {
  std::string why;
  std::vector<torch::autograd::Node*> open{root.grad_fn().get()};
  std::unordered_set<const torch::autograd::Node*> seen;
  while (!open.empty()) {
    torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    if (node->name().find("CppNode") != std::string::npos) {
      why = "its graph has a torch::autograd::Function of its own: " + node->name();
    }
    if (has_hooks(*node)) why = "autograd calls a hook of the user's while it computes the gradients";
    if (auto* leaf = dynamic_cast<torch::autograd::AccumulateGrad*>(node)) {
      leaves.push_back({.parameter = leaf->variable, .hooks = hooks_of(leaf->variable)});
    }
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return why;
}

size_t hooks_of(const at::Tensor& parameter) {
  return torch::autograd::impl::hooks(parameter).size() +
         (torch::autograd::impl::post_acc_grad_hooks(parameter) != nullptr ? 1 : 0);
}

}  // namespace accelerate::internal
