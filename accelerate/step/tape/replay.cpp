// A step that does what was captured.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "accelerate/step/tape/owned.h"
#include "accelerate/step/tape/pool.h"
#include "accelerate/step/tape/tape.h"

namespace accelerate::internal {

namespace {

/// Some elements of it may share memory, as those of an expanded tensor do.
bool may_overlap(const at::Tensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride and size
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) > 1) dims.emplace_back(tensor.stride(i), tensor.size(i));
  }
  std::sort(dims.begin(), dims.end());
  int64_t span = 1;
  for (const auto& [stride, size] : dims) {
    if (stride < span) return true;
    span += stride * (size - 1);
  }
  return false;
}

/// All memory between its first element and its last.
at::Tensor span_of(const at::Tensor& tensor) {
  int64_t span = 1;
  for (int64_t i = 0; i < tensor.dim(); ++i) span += tensor.stride(i) * (tensor.size(i) - 1);
  return tensor.as_strided({span}, {1}, tensor.storage_offset());
}

}  // namespace

void Tape::fill(const Outside& input) {
  if (state_ == State::kReplaying && input.buffer.is_non_overlapping_and_dense()) {
    late_copies_.push_back({.to = input.buffer.mutable_data_ptr(),
                            .from = input.current.const_data_ptr(),
                            .bytes = input.buffer.nbytes()});
    return;
  }
  const auto copy = [&] {
    const at::NoGradGuard no_grad;
    const bool overlaps = input.buffer.numel() != 0 && may_overlap(input.buffer);
    const at::Tensor to = overlaps ? span_of(input.buffer) : input.buffer;
    to.copy_(overlaps ? span_of(input.current) : input.current, /*non_blocking=*/true);
  };
  do_apart(copy);
}

/// Before anything that the device does: what is copied may be written then.
void Tape::copy_late() {
  if (late_copies_.empty()) return;
  capture_.copy(late_copies_);
  late_copies_.clear();
}

const c10::Storage& Tape::shown(Memory& memory) {
  if (!memory.shown) memory.shown = Owned::show(owned_, memory.data, memory.bytes, no_numbers_.device());
  return memory.shown;
}

void Tape::view_outside(const Value& value, c10::TensorImpl& object) const {
  const at::Tensor& base = outside_[value.outside].current;
  object.set_storage_keep_dtype(base.storage());
  object.set_storage_offset(base.storage_offset() + value.offset);
}

at::Tensor Tape::remade(Value& value) {
  TensorObject object = value.pattern->shallow_copy_and_detach(c10::VariableVersion(0), /*allow_change=*/true);
  if (value.outside >= 0) view_outside(value, *object);
  at::Tensor tensor(std::move(object));
  if (value.requires_grad) torch::autograd::impl::set_gradient_edge(tensor, {node_, value.output});
  value.object = WeakTensorObject(tensor.getIntrusivePtr());
  value.current = tensor.unsafeGetTensorImpl();
  value.step = step_;
  return tensor;
}

at::Tensor Tape::given(const Ref& ref) {
  if (ref.kind == Ref::Kind::kNone) return {};
  if (ref.kind == Ref::Kind::kOutside) return outside_[ref.index].current;
  Value& value = values_[ref.index];
  if (value.step == step_) {
    if (auto object = value.object.lock(); object.defined()) return at::Tensor(std::move(object));
  }
  return remade(value);
}

void Tape::replay(const Entry& entry, torch::jit::Stack& stack) {
  torch::jit::drop(stack, entry.arguments.size());
  for (const Argument& result : entry.results) {
    switch (result.kind) {
      case Argument::Kind::kConstant:
        stack.push_back(result.constant);
        break;
      case Argument::Kind::kTensor:
        stack.emplace_back(given(result.tensors.front()));
        break;
      case Argument::Kind::kTensors: {
        c10::List<at::Tensor> list;
        list.reserve(result.tensors.size());
        for (const Ref& ref : result.tensors) list.push_back(given(ref));
        stack.emplace_back(std::move(list));
        break;
      }
      case Argument::Kind::kOptionalTensors: {
        c10::List<std::optional<at::Tensor>> list;
        for (const Ref& ref : result.tensors) list.push_back(given(ref));
        stack.emplace_back(std::move(list));
        break;
      }
    }
  }
  for (const int32_t index : entry.made_differentiable) {
    const Value& value = values_[index];
    const auto object = value.step == step_ ? value.object.lock() : TensorObject();
    if (object.defined()) torch::autograd::impl::set_gradient_edge(at::Tensor(object), {node_, value.output});
  }
  ++position_;
}

/// Somebody still has a result whose memory the graph uses again.
const Entry* Tape::held_too_long() const {
  for (size_t i = 0; i < values_.size(); ++i) {
    const Value& value = values_[i];
    if (value.step != step_ || value.memory >= 0 || value.outside >= 0 || value.object.use_count() == 0) continue;
    for (const Entry& entry : entries_) {
      const Ref wanted{.kind = Ref::Kind::kValue, .index = static_cast<int32_t>(i)};
      const auto makes = [&](const Argument& result) { return std::ranges::count(result.tensors, wanted) != 0; };
      if (std::ranges::any_of(entry.results, makes)) return &entry;
    }
    return &entries_.front();
  }
  return nullptr;
}

/// Autograd may be run from it yet, and would find nothing.
bool Tape::keeps_unspent_graph() const {
  return std::any_of(values_.begin(), values_.end(), [&](const Value& value) {
    return value.has_unspent_graph && value.step == step_ && value.object.use_count() > 0;
  });
}

/// What the graph reads is a copy that does not follow, or what it writes is one that others do not see.
bool Tape::input_is_written() const {
  return std::any_of(outside_.begin(), outside_.end(), [&](const Outside& input) {
    if (!input.is_input || !input.current.defined()) return false;
    const auto* storage = input.current.storage().unsafeGetStorageImpl();
    return std::any_of(outside_.begin(), outside_.end(), [&](const Outside& other) {
      if (&other == &input || !(other.written || input.written) || !other.current.defined()) return false;
      return other.current.storage().unsafeGetStorageImpl() == storage;
    });
  });
}

bool Tape::takes(const c10::Storage& storage) const {
  return std::any_of(outside_.begin(), outside_.end(), [&](const Outside& outside) {
    return outside.current.defined() &&
           outside.current.storage().unsafeGetStorageImpl() == storage.unsafeGetStorageImpl();
  });
}

void Tape::move_out(const Tape* reader) {
  for (Memory& memory : memories_) {
    const c10::Storage& now = memory.captured ? memory.captured : memory.shown;
    if (reader != nullptr && now && reader->takes(now)) continue;
    const auto copied = [&] { return capture_.copy(memory.data, memory.bytes); };
    if (memory.captured) {
      const bool held = memory.captured.use_count() > 1;
      c10::DataPtr own = held ? copied() : c10::DataPtr(nullptr, no_numbers_.device());
      owned_->blocks.push_back(memory.captured.unsafeGetStorageImpl()->set_data_ptr(std::move(own)));
      memory.captured = c10::Storage();
    }
    if (const auto before = memory.shown_before.lock(); before.defined()) before->set_data_ptr_noswap(copied());
    memory.shown_before = WeakStorage(c10::intrusive_ptr<c10::StorageImpl>());
    if (memory.shown && memory.shown.use_count() > 1) {
      memory.shown.unsafeGetStorageImpl()->set_data_ptr_noswap(copied());
    }
    memory.shown = c10::Storage();
  }
}

void Tape::copy_back() const {
  const at::NoGradGuard no_grad;
  for (const Outside& outside : outside_) {
    if (!outside.written || !outside.current.defined()) continue;
    if (outside.is_input) {
      outside.current.copy_(outside.buffer, /*non_blocking=*/true);
    } else {
      outside.current.unsafeGetTensorImpl()->bump_version();
    }
  }
}

bool Tape::launch() {
  const auto segment = std::find_if(segments_.begin(), segments_.end(),
                                    [this](const Segment& candidate) { return candidate.end == position_; });
  if (segment == segments_.end() || segment->begin < launched_) return true;  // nothing for the device in between
  if (const Entry* maker = held_too_long()) {
    catch_up("a result of " + maker->name + " is kept, which was not when the step was captured");
    return false;
  }
  if (input_is_written()) {
    catch_up(kInputIsWritten);
    return false;
  }
  copy_late();
  if (!std::exchange(room_made_, true)) {
    pool_.make_room_for(*this);
    move_out();
  }
  host_.launch(*segment->work);
  random_ = RandomPlace::now(device_);
  for (Value& value : values_) {
    if (value.step != step_ || value.memory < 0) continue;
    if (const auto object = value.object.lock(); object.defined()) {
      object->set_storage_keep_dtype(shown(memories_[value.memory]));
    }
  }
  copy_back();
  return true;
}

}  // namespace accelerate::internal
