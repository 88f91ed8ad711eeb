// The step in which the work is captured: operators run, but the device does nothing before the end.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <unordered_map>

#include "accelerate/step/tape/owned.h"
#include "accelerate/step/tape/pool.h"
#include "accelerate/step/tape/tape.h"

namespace accelerate::internal {

void Tape::open_segment() {
  capture_.begin();
  open_ = host_.capturing();
  segments_.push_back({.begin = position_});
  capture_.mark();
}

void Tape::abandon_segment() noexcept {
  if (!open_) return;
  try {
    host_.await_arrivals();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    refuse("it cannot be captured: " + text.substr(0, text.find('\n')));
  }
  open_.reset();
  capture_.abandon();
}

/// Gradients may be on their way between the ranks while what does not touch them goes on.
void Tape::await_arrivals(const torch::jit::Stack& stack, size_t arguments) {
  const auto waits_for = [this](const c10::IValue& value) {
    if (value.isTensor()) return host_.arrives_yet(value.toTensor());
    if (!value.isList()) return false;
    const auto items = value.toListRef();
    return std::ranges::any_of(
        items, [this](const c10::IValue& item) { return item.isTensor() && host_.arrives_yet(item.toTensor()); });
  };
  if (std::any_of(stack.end() - static_cast<std::ptrdiff_t>(arguments), stack.end(), waits_for)) {
    host_.await_arrivals();
  }
}

void Tape::capture(const Entry& entry, const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  if (!open_) open_segment();
  const size_t first = stack.size() - entry.arguments.size();
  const std::vector<c10::IValue> given(stack.begin() + static_cast<std::ptrdiff_t>(first), stack.end());
  const auto read = [this](const Ref& ref, const at::Tensor& tensor) {
    return ref.kind == Ref::Kind::kOutside && outside_[ref.index].is_input ? outside_[ref.index].buffer : tensor;
  };
  for (size_t i = 0; i < entry.arguments.size(); ++i) {
    const Argument& argument = entry.arguments[i];
    if (!argument.takes(Ref::Kind::kOutside)) continue;
    if (argument.kind == Argument::Kind::kTensor) {
      stack[first + i] = read(argument.tensors.front(), given[i].toTensor());
    } else if (argument.kind == Argument::Kind::kTensors) {
      c10::List<at::Tensor> list;
      const auto items = given[i].toListRef();
      for (size_t k = 0; k < items.size(); ++k) list.push_back(read(argument.tensors[k], items[k].toTensor()));
      stack[first + i] = std::move(list);
    } else {
      c10::List<std::optional<at::Tensor>> list;
      const auto items = given[i].toListRef();
      for (size_t k = 0; k < items.size(); ++k) {
        list.push_back(items[k].isTensor() ? std::optional(read(argument.tensors[k], items[k].toTensor()))
                                           : std::nullopt);
      }
      stack[first + i] = std::move(list);
    }
  }
  try {
    await_arrivals(stack, entry.arguments.size());
    op.callBoxed(stack);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    stack.resize(first);
    stack.insert(stack.end(), given.begin(), given.end());
    pass_by(entry.name + " cannot be captured: " + text.substr(0, text.find('\n')));
    return op.callBoxed(stack);
  }
  const size_t results = stack.size() - entry.results.size();
  for (size_t i = 0; i < entry.results.size(); ++i) {
    const Argument& result = entry.results[i];
    bind(result, stack[results + i]);
    if (!result.takes(Ref::Kind::kOutside)) continue;
    // The user gets the tensor itself, not the copy that the graph reads.
    if (result.kind == Argument::Kind::kTensor) {
      stack[results + i] = outside_[result.tensors.front().index].current;
    } else if (result.kind == Argument::Kind::kTensors) {
      c10::List<at::Tensor> list;
      const auto items = stack[results + i].toListRef();
      for (size_t k = 0; k < items.size(); ++k) {
        const Ref& ref = result.tensors[k];
        list.push_back(ref.kind == Ref::Kind::kOutside ? outside_[ref.index].current : items[k].toTensor());
      }
      stack[results + i] = std::move(list);
    }
  }
  for (const int32_t index : entry.made_differentiable) {
    Value& value = values_[index];
    const auto object = value.step == step_ ? value.object.lock() : TensorObject();
    if (object.defined() && !value.requires_grad) value.output = node_->add_input_metadata(at::Tensor(object));
  }
  ++position_;
  capture_.mark();
}

void Tape::bind(const Argument& result, const c10::IValue& value) {
  if (result.kind == Argument::Kind::kTensor) return bind(result.tensors.front(), value.toTensor());
  if (result.kind == Argument::Kind::kConstant) return;
  const auto items = value.toListRef();
  for (size_t i = 0; i < result.tensors.size(); ++i) {
    if (items[i].isTensor()) bind(result.tensors[i], items[i].toTensor());
  }
}

void Tape::bind(const Ref& ref, const at::Tensor& tensor) {
  if (ref.kind != Ref::Kind::kValue) return;
  Value& value = values_[ref.index];
  if (value.step == step_ && value.current == tensor.unsafeGetTensorImpl()) return;
  value.object = WeakTensorObject(tensor.getIntrusivePtr());
  value.current = tensor.unsafeGetTensorImpl();
  value.step = step_;
  value.storage = tensor.storage().getWeakStorageImpl();
  value.kept = c10::Storage();
  value.outside = -1;
  value.memory = -1;
  const auto outside = outside_storages_.find(tensor.storage().unsafeGetStorageImpl());
  if (outside != outside_storages_.end()) {
    const Outside& shared = outside_[outside->second];
    value.outside = outside->second;
    value.offset = tensor.storage_offset() - (shared.is_input ? shared.buffer : shared.current).storage_offset();
  }
  value.pattern = tensor.unsafeGetTensorImpl()->shallow_copy_and_detach(c10::VariableVersion(0), /*allow_change=*/true);
  value.pattern->set_storage_keep_dtype(no_numbers_);
  value.requires_grad = tensor.requires_grad() && tensor.grad_fn() != nullptr;
  if (value.requires_grad) value.output = node_->add_input_metadata(tensor);
}

void Tape::keep_results() {
  if (state_ != State::kCapturing) return;
  for (Value& value : values_) {
    if (value.step == step_ && value.outside < 0 && !value.kept && value.object.use_count() > 0) {
      value.kept = c10::Storage(value.storage.lock());
    }
  }
}

bool Tape::close_segment() {
  if (state_ == State::kCapturing && input_is_written()) {
    catch_up(kInputIsWritten);
    return false;
  }
  keep_results();
  if (!open_) return true;
  const bool unknown = capture_.has_unknown_work();
  try {
    host_.await_arrivals();
    open_.reset();
    segments_.back().work = capture_.end();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    pass_by("it cannot be captured: " + text.substr(0, text.find('\n')));
    return false;
  }
  segments_.back().end = position_;
  owned_->work.push_back(segments_.back().work);
  host_.launch(*segments_.back().work);
  for (const Outside& outside : outside_) {
    if (outside.is_input && outside.written && outside.current.defined()) {
      const at::NoGradGuard no_grad;
      outside.current.copy_(outside.buffer, /*non_blocking=*/true);
    }
  }
  // A view of an input is one of the user's own tensor.
  for (Value& value : values_) {
    if (value.step != step_ || value.outside < 0 || !outside_[value.outside].is_input) continue;
    if (const auto object = value.object.lock(); object.defined()) view_outside(value, *object);
  }
  launched_ = position_;
  if (!unknown || state_ != State::kCapturing) return true;
  refuse(kUnknownWork);
  fallback_ = kUnknownWork;
  state_ = State::kPassed;
  return false;
}

void Tape::find_memories() {
  std::unordered_map<const c10::StorageImpl*, int32_t> of_storage;
  memories_.clear();
  for (Value& value : values_) {
    if (!value.kept) continue;
    const auto [entry, added] =
        of_storage.try_emplace(value.kept.unsafeGetStorageImpl(), static_cast<int32_t>(memories_.size()));
    if (added) {
      const size_t bytes = value.kept.nbytes();
      Memory& memory = memories_.emplace_back();
      memory.captured = value.kept;
      memory.data = bytes == 0 ? nullptr : value.kept.mutable_data();
      memory.bytes = bytes;
    }
  }
  for (Value& value : values_) {
    const auto storage = value.step == step_ && value.outside < 0 ? value.storage.lock() : nullptr;
    const auto found = of_storage.find(storage.get());
    if (storage.defined() && found != of_storage.end()) value.memory = found->second;
    value.kept = c10::Storage();
  }
}

void Tape::finish_capture() {
  if (!close_segment()) return;
  find_memories();
  at::autocast::clear_cache();
  captured_ = true;
  pool_.add(*this);
  state_ = State::kDone;
}

}  // namespace accelerate::internal
