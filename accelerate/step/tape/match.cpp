// Whether what comes is what was captured.
#include <torch/csrc/autograd/variable.h>

#include <cstring>

#include "accelerate/step/tape/tape.h"

namespace accelerate::internal {
namespace {

/// Null for tensors that have no numbers yet.
const void* address_of(const c10::TensorImpl* tensor, const c10::Storage& no_numbers) {
  const c10::StorageImpl* storage = tensor->unsafe_storage().unsafeGetStorageImpl();
  if (storage == nullptr || storage == no_numbers.unsafeGetStorageImpl() || tensor->numel() == 0) return nullptr;
  return static_cast<const char*>(storage->data()) +
         tensor->storage_offset() * static_cast<int64_t>(tensor->itemsize());
}

bool same_form(const c10::TensorImpl& a, const c10::TensorImpl& b) {
  return a.dtype() == b.dtype() && a.layout() == b.layout() && a.sizes() == b.sizes() && a.strides() == b.strides();
}

at::Tensor borrowed(c10::TensorImpl* tensor) { return at::Tensor(TensorObject::reclaim_copy(tensor)); }

std::string place(size_t position, const std::string& name) {
  return "operator " + std::to_string(position) + " " + name + ": ";
}

}  // namespace

bool Tape::matches_number(const at::Tensor& recorded, const c10::TensorImpl* tensor) const {
  return tensor->device().is_cpu() && tensor->dim() == 0 && tensor->dtype() == recorded.dtype() &&
         tensor->is_wrapped_number() == recorded.unsafeGetTensorImpl()->is_wrapped_number() &&
         std::memcmp(tensor->data(), recorded.const_data_ptr(), recorded.element_size()) == 0;
}

bool Tape::matches_outside(Outside& outside, c10::TensorImpl* tensor) {
  if (outside.current.defined()) {
    return outside.current.unsafeGetTensorImpl() == tensor && address_of(tensor, no_numbers_) == outside.address;
  }
  if (tensor == c10::UndefinedTensorImpl::singleton() || !tensor->has_storage()) return false;
  if (tensor->storage().unsafeGetStorageImpl() == no_numbers_.unsafeGetStorageImpl()) return false;
  if (tensor->device() != outside.device) return false;
  if (outside.parameter.defined()) {
    if (outside.parameter.unsafeGetTensorImpl() != tensor || !tensor->requires_grad()) return false;
  } else if (tensor->requires_grad() || !same_form(*outside.pattern, *tensor)) {
    return false;
  }
  if (!outside.is_input && address_of(tensor, no_numbers_) != outside.data) {
    if (!outside.parameter.defined()) moved_ = &outside;
    return false;
  }
  outside.current = borrowed(tensor);
  outside.address = address_of(tensor, no_numbers_);
  if (outside.is_input) {
    fill(outside);
  } else if (state_ == State::kCapturing) {
    outside_storages_.emplace(tensor->storage().unsafeGetStorageImpl(), static_cast<int32_t>(&outside - &outside_[0]));
  }
  return true;
}

bool Tape::matches(const Ref& ref, c10::TensorImpl* tensor) {
  switch (ref.kind) {
    case Ref::Kind::kNone:
      return tensor == c10::UndefinedTensorImpl::singleton();
    case Ref::Kind::kValue:
      return values_[ref.index].current == tensor && values_[ref.index].step == step_;
    case Ref::Kind::kOutside:
      return tensor->requires_grad() == ref.requires_grad && matches_outside(outside_[ref.index], tensor);
    case Ref::Kind::kHost:
      return matches_number(numbers_[ref.index], tensor);
    case Ref::Kind::kUnknown:
      return tensor->device().type() != device_;
  }
  return false;
}

bool Tape::matches(const Argument& argument, const c10::IValue& value) {
  if (argument.kind == Argument::Kind::kConstant) return same_constant(argument.constant, value);
  if (argument.kind == Argument::Kind::kTensor) {
    return value.isTensor() && matches(argument.tensors.front(), value.unsafeToTensorImpl());
  }
  if (!value.isList()) return false;
  const auto items = value.toListRef();
  if (items.size() != argument.tensors.size()) return false;
  for (size_t i = 0; i < items.size(); ++i) {
    const Ref& ref = argument.tensors[i];
    const bool same = items[i].isTensor() ? matches(ref, items[i].unsafeToTensorImpl()) : ref.kind == Ref::Kind::kNone;
    if (!same) return false;
  }
  return true;
}

std::string Tape::mismatch_of(const Entry& entry, const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  if (!entry.op || !(*entry.op == op)) {
    return place(position_, op.schema().name()) + "captured was " + entry.name;
  }
  if (!entry.mode.is_now(device_)) return place(position_, entry.name) + "in another mode (grad, autocast)";
  const size_t first = stack.size() - entry.arguments.size();
  if (entry.kind == Entry::Kind::kHost) return {};
  for (size_t i = 0; i < entry.arguments.size(); ++i) {
    if (matches(entry.arguments[i], stack[first + i])) continue;
    return place(position_, entry.name) + "its argument `" + op.schema().arguments()[i].name() + "` has changed";
  }
  return {};
}

std::string Tape::mismatch_of(const Entry& entry, const at::Tensor& root, const PassOptions& pass) {
  if (entry.kind != Entry::Kind::kBackward) return place(position_, "backward") + "captured was " + entry.name;
  if (!entry.mode.is_now(device_)) return place(position_, "backward") + "in another mode (grad, autocast)";
  if (!(entry.pass == pass)) return place(position_, "backward") + "its options have changed, or which models average";
  if (!matches(entry.root, root.unsafeGetTensorImpl())) return place(position_, "backward") + "of another loss";
  if (!node_->tensor_pre_hooks().empty() || !node_->retains_grad_hooks().empty()) {
    return place(position_, "backward") + "a result has a hook, or keeps its gradient";
  }
  for (const Leaf& leaf : entry.leaves) {
    if (!matches(leaf.before, leaf.parameter.grad().unsafeGetTensorImpl())) {
      return place(position_, "backward") + "a gradient is there that was not, or the other way round";
    }
    if (hooks_of(leaf.parameter) != leaf.hooks) return place(position_, "backward") + "a gradient has other hooks";
  }
  return {};
}

}  // namespace accelerate::internal
