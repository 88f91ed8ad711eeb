// A step that does something else than what was captured: nothing of it has run since the last launch. What has matched
// runs now, from the step's own tensors, and its results go into the objects that were given for them.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "accelerate/step/tape/tape.h"
#include "accelerate/tensor/intercept.h"

namespace accelerate::internal {
namespace {

namespace autograd = torch::autograd;

/// The object that stands for a tensor that was computed again.
using Objects = std::unordered_map<const c10::TensorImpl*, TensorObject>;

autograd::ViewInfo view_of(const autograd::ViewInfo& real, const Objects& objects) {
  const auto base = objects.find(real.base_.unsafeGetTensorImpl());
  return {base == objects.end() ? real.base_ : at::Tensor(base->second),
          real.has_view_fn() ? real.view_fn().clone_and_set() : nullptr, real.rev_view_fn_};
}

/// What autograd knows about `real`: where one changes in place, its views have to notice.
void take_graph(const at::Tensor& object, const at::Tensor& real, const Objects& objects) {
  std::unique_ptr<c10::AutogradMetaInterface> meta;
  if (const auto* view = autograd::impl::get_view_autograd_meta(real)) {
    std::optional<autograd::ViewInfo> backward, forward;
    if (view->has_bw_view()) backward.emplace(view_of(view->get_backward_view(), objects));
    if (!view->shared_view_info() && view->has_fw_view()) forward.emplace(view_of(view->get_forward_view(), objects));
    meta = std::make_unique<autograd::DifferentiableViewMeta>(object.unsafeGetTensorImpl(), std::move(backward),
                                                              std::move(forward), view->shared_view_info(),
                                                              view->get_creation_meta());
  }
  // Hooks, and that its gradient is kept, are the object's.
  std::shared_ptr<autograd::hooks_list> hooks;
  const bool retains_grad = object.requires_grad() && object.retains_grad();
  if (const auto* own = autograd::impl::get_autograd_meta(object)) hooks = own->cpp_hooks_list_;
  object.unsafeGetTensorImpl()->set_autograd_meta(std::move(meta));
  autograd::impl::set_version_counter(object, autograd::impl::version_counter(real));
  if (real.grad_fn()) {
    autograd::impl::set_gradient_edge(object, {real.grad_fn(), static_cast<uint32_t>(real.output_nr())});
  } else if (real.requires_grad()) {
    object.requires_grad_(true);
  }
  if (!object.requires_grad()) return;
  if (retains_grad) object.retain_grad();
  if (hooks == nullptr) return;
  for (const auto& hook : *hooks) {
    if (hook) object.register_hook([hook](const at::Tensor& gradient) { return at::Tensor(hook(gradient)); });
  }
}

/// Layers that are frozen for a part of the step are so again while that is run.
class Freezes {
 public:
  Freezes() = default;
  ~Freezes() {
    for (const auto& [tensor, requires_grad] : now_) tensor.set_requires_grad(requires_grad);
  }
  Freezes(const Freezes&) = delete;
  Freezes& operator=(const Freezes&) = delete;
  void set(const at::Tensor& tensor, const Ref& ref) {
    if (ref.kind != Ref::Kind::kOutside || tensor.requires_grad() == ref.requires_grad || !tensor.is_leaf()) return;
    now_.emplace_back(tensor, tensor.requires_grad());
    tensor.set_requires_grad(ref.requires_grad);
  }

 private:
  std::vector<std::pair<at::Tensor, bool>> now_;
};

}  // namespace

at::Tensor Tape::real_of(const Ref& ref, std::vector<at::Tensor>& real) {
  switch (ref.kind) {
    case Ref::Kind::kHost:
      return numbers_[ref.index];
    case Ref::Kind::kOutside:
      return outside_[ref.index].current;
    case Ref::Kind::kValue: {
      if (real[ref.index].defined()) return real[ref.index];
      // Of what has been launched.
      Value& value = values_[ref.index];
      if (auto object = value.object.lock(); object.defined()) return at::Tensor(std::move(object));
      at::Tensor tensor = remade(value);
      if (value.memory >= 0) tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(shown(memories_[value.memory]));
      if (value.kept) tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(value.kept);
      return tensor;
    }
    default:
      return {};
  }
}

void Tape::run_again(size_t begin, size_t end, std::vector<at::Tensor>& real) {
  const auto keep = [&](const Ref& ref, const at::Tensor& tensor) {
    if (ref.kind == Ref::Kind::kValue && !real[ref.index].defined()) real[ref.index] = tensor;
  };
  Freezes freezes;
  const auto taken = [&](const Ref& ref) {
    at::Tensor tensor = real_of(ref, real);
    freezes.set(tensor, ref);
    return tensor;
  };
  for (size_t i = begin; i < end; ++i) {
    Entry& entry = entries_[i];
    if (entry.kind == Entry::Kind::kHost || entry.kind == Entry::Kind::kFeed) continue;  // they have run
    const ModeScope mode(entry.mode, device_);
    if (entry.kind == Entry::Kind::kBackward) {
      for (Leaf& leaf : entry.leaves) leaf.parameter.mutable_grad() = real_of(leaf.before, real);
      host_.run(real_of(entry.root, real), entry.pass);
      for (const Leaf& leaf : entry.leaves) keep(leaf.after, leaf.parameter.grad());
      continue;
    }
    torch::jit::Stack stack;
    for (const Argument& argument : entry.arguments) {
      switch (argument.kind) {
        case Argument::Kind::kConstant:
          stack.push_back(argument.constant);
          break;
        case Argument::Kind::kTensor:
          stack.emplace_back(taken(argument.tensors.front()));
          break;
        case Argument::Kind::kTensors: {
          c10::List<at::Tensor> list;
          for (const Ref& ref : argument.tensors) list.push_back(taken(ref));
          stack.emplace_back(std::move(list));
          break;
        }
        case Argument::Kind::kOptionalTensors: {
          c10::List<std::optional<at::Tensor>> list;
          for (const Ref& ref : argument.tensors) {
            list.push_back(ref.kind == Ref::Kind::kNone ? std::nullopt : std::optional(taken(ref)));
          }
          stack.emplace_back(std::move(list));
          break;
        }
      }
    }
    entry.op->callBoxed(stack);
    for (size_t k = 0; k < entry.results.size(); ++k) {
      const Argument& result = entry.results[k];
      if (result.kind == Argument::Kind::kConstant) continue;
      if (result.kind == Argument::Kind::kTensor) {
        keep(result.tensors.front(), stack[k].toTensor());
        continue;
      }
      const auto items = stack[k].toListRef();
      for (size_t n = 0; n < result.tensors.size(); ++n) {
        if (items[n].isTensor()) keep(result.tensors[n], items[n].toTensor());
      }
    }
  }
}

void Tape::hand_over(const std::vector<at::Tensor>& real) {
  Objects objects;
  for (size_t i = 0; i < values_.size(); ++i) {
    if (!real[i].defined() || values_[i].step != step_) continue;
    auto object = values_[i].object.lock();
    if (!object.defined() || object.get() == real[i].unsafeGetTensorImpl()) continue;
    object->shallow_copy_from(real[i].getIntrusivePtr());
    objects.emplace(real[i].unsafeGetTensorImpl(), std::move(object));
  }
  for (const at::Tensor& tensor : real) {
    if (!tensor.defined()) continue;
    const auto object = objects.find(tensor.unsafeGetTensorImpl());
    if (object != objects.end()) take_graph(at::Tensor(object->second), tensor, objects);
  }
}

void Tape::catch_up(const std::string& reason) {
  const Unobserved own;
  const bool capturing = state_ == State::kCapturing;
  std::optional<RandomPlace> seeded;
  if (seed_was_set()) {
    seeded = RandomPlace::now(device_);
    random_.go_back(device_);
  }
  fallback_ = reason;
  state_ = State::kPassed;
  if (capturing) {
    abandon_segment();
    segments_.clear();
  }
  at::autocast::clear_cache();
  std::vector<at::Tensor> real(values_.size());
  // Gradients as they were before; what the user has made of them since then stays.
  std::vector<std::pair<at::Tensor, at::Tensor>> changed;
  std::unordered_set<const c10::TensorImpl*> seen;
  for (size_t i = position_; i-- > launched_;) {
    for (Leaf& leaf : entries_[i].leaves) {
      if (!seen.insert(leaf.parameter.unsafeGetTensorImpl()).second) continue;  // what a later pass found counts
      at::Tensor& gradient = leaf.parameter.mutable_grad();
      const c10::TensorImpl* ours = leaf.after.kind == Ref::Kind::kValue
                                        ? values_[leaf.after.index].current
                                        : real_of(leaf.after, real).unsafeGetTensorImpl();
      if (gradient.unsafeGetTensorImpl() != ours) changed.emplace_back(leaf.parameter, gradient);
    }
  }
  run_again(launched_, position_, real);
  if (seeded) seeded->go_back(device_);
  for (auto& [parameter, gradient] : changed) parameter.mutable_grad() = gradient;
  hand_over(real);
  at::autocast::clear_cache();
}

}  // namespace accelerate::internal
