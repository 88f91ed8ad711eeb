#include "accelerate/step/tape/tape.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/variable.h>

#include <limits>
#include <utility>

#include "accelerate/step/tape/graphs.h"
#include "accelerate/step/tape/outcomes.h"
#include "accelerate/step/tape/owned.h"
#include "accelerate/step/tape/pool.h"
#include "accelerate/tensor/intercept.h"

namespace accelerate::internal {
namespace {

/// Storage for the form of tensors. Whoever asks for its address is told why there is none.
c10::Storage without_numbers(c10::Device device) {
  c10::Storage storage(c10::Storage::use_byte_size_t(), std::numeric_limits<int64_t>::max() / 4,
                       c10::DataPtr(nullptr, device), /*allocator=*/nullptr, /*resizable=*/false);
  storage.unsafeGetStorageImpl()->release_data_and_set_meta_custom_data_ptr_error_msg_(
      "[cuda_graph] This tensor belongs to a captured step that has not been launched yet: its address was asked for "
      "past LibTorch's operators, or it was made past them, by .data() or set_data(). Read it with .item(), .cpu() or "
      ".to(), use .detach() in place of .data(), read the address after the step has ended, or leave .cuda_graph out "
      "of the options.");
  return storage;
}

TensorObject pattern_of(const at::Tensor& tensor, const c10::Storage& storage) {
  TensorObject pattern =
      tensor.unsafeGetTensorImpl()->shallow_copy_and_detach(c10::VariableVersion(0), /*allow_change=*/true);
  pattern->set_storage_keep_dtype(storage);
  return pattern;
}

/// Written in place and another one at times, such as the sum of an epoch's losses. More would cost more than it
/// brings: gradients settle.
bool can_be_copied_back(const at::Tensor& tensor) {
  constexpr size_t kMostBytes = 4096;
  return tensor.nbytes() <= kMostBytes;
}

/// Whether another tensor from outside lies in the same memory.
bool shares_memory(const Recording& recording, size_t index) {
  const at::Tensor& tensor = recording.outside()[index].tensor;
  for (size_t i = 0; i < recording.outside().size(); ++i) {
    const at::Tensor& other = recording.outside()[i].tensor;
    if (i != index && tensor.has_storage() && other.has_storage() && other.storage().is_alias_of(tensor.storage())) {
      return true;
    }
  }
  return false;
}

/// The graph can read it where it is. Both were alive at once: equal addresses mean equal memory, except where a replay
/// showed its own to two steps, which is what is wanted.
bool stays(const OutsideTensor& a, const OutsideTensor& b) {
  if (a.data != b.data || a.requires_grad != b.requires_grad) return false;
  if (a.requires_grad) return a.tensor.is_same(b.tensor);
  return a.tensor.sizes() == b.tensor.sizes() && a.tensor.strides() == b.tensor.strides() &&
         a.tensor.dtype() == b.tensor.dtype();
}

constexpr const char* kSeedWasSet = "the seed of the random numbers was set in the middle of the step";

}  // namespace

Tape::Refusal Tape::refusal(const Recording& first, const Recording& second, c10::DeviceType device) {
  for (const Recording* recording : {&first, &second}) {
    if (!recording->refusal().empty()) return {.reason = recording->refusal(), .for_good = true};
  }
  if (const auto difference = Recording::difference(first, second)) {
    return {.reason = "two steps in a row were not alike: " + *difference};
  }
  for (size_t i = 0; i < second.outside().size(); ++i) {
    const OutsideTensor& now = second.outside()[i];
    if (stays(first.outside()[i], now)) continue;
    if (now.requires_grad) return {.reason = "a tensor that requires a gradient is a new one in every step"};
    if (now.tensor.device().type() != device) return {.reason = "memory of the host is another one in every step"};
    if (now.is_gradient || (now.written && !can_be_copied_back(now.tensor)))
      return {.reason = "a tensor that is written in place is a new one in every step"};
  }
  // Nothing of a forward pass may be launched before its backward pass: caught up with, its graph would be missing.
  const Graphs graphs(second);
  const Entry* read = nullptr;
  size_t read_at = 0;
  const auto& entries = second.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].kind == Entry::Kind::kRead) {
      read = &entries[i];
      read_at = i;
    }
    const Ref& root = entries[i].root;
    if (read == nullptr || entries[i].kind != Entry::Kind::kBackward || root.kind != Ref::Kind::kValue) continue;
    if (graphs.begun[root.index] > read_at) continue;
    return {.reason = read->name + " waits for the device between the model and accelerator.backward(loss)",
            .for_good = true};
  }
  return {};
}

Tape::Tape(const Recording& first, Recording second, c10::Device device, CaptureDevice& capture, TapePool& pool,
           TapeHost& host)
    : device_(device.type()),
      capture_(capture),
      pool_(pool),
      host_(host),
      entries_(second.entries()),
      numbers_(second.numbers()),
      owned_(std::make_shared<Owned>()) {
  for (size_t i = 0; i < second.outside().size(); ++i) {
    const OutsideTensor& recorded = second.outside()[i];
    if (!no_numbers_) no_numbers_ = without_numbers(device);
    outside_.push_back({.pattern = pattern_of(recorded.tensor, no_numbers_),
                        .parameter = recorded.requires_grad ? recorded.tensor : at::Tensor(),
                        .device = recorded.tensor.device(),
                        .data = recorded.data,
                        .written = recorded.written,
                        .stays_in_place = recorded.is_gradient || shares_memory(second, i),
                        .is_input = !stays(first.outside()[i], recorded)});
  }
  values_.resize(second.made().size());
  torch::autograd::edge_list parameters;
  const Graphs graphs(second);
  for (size_t i = 0; i < values_.size(); ++i) values_[i].has_unspent_graph = graphs.unspent[i];
  for (const Entry& entry : entries_) {
    for (const Leaf& leaf : entry.leaves) {
      parameters.emplace_back(torch::autograd::impl::grad_accumulator(leaf.parameter), 0);
    }
  }
  node_ = std::shared_ptr<StepNode>(new StepNode(std::move(parameters)), torch::autograd::deleteNode);
}

Tape::~Tape() {
  pool_.remove(*this);
  try {
    move_out();
  } catch (const std::exception& error) {
    // The device has failed. What was shown stays where it is, in memory that it owns.
    TORCH_WARN("results of captured steps were not copied: ", error.what());
  }
}

void Tape::begin() {
  const Unobserved own;
  ++step_;
  position_ = launched_ = 0;
  room_made_ = false;
  moved_ = nullptr;
  late_copies_.clear();
  fallback_.clear();
  node_->tensor_pre_hooks().clear();
  node_->retains_grad_hooks().clear();
  const uint64_t settings = kernel_settings();
  if (captured_) {
    state_ = State::kReplaying;
    for (Memory& memory : memories_) {
      if (!memory.shown) continue;
      memory.shown_before = memory.shown.getWeakStorageImpl();
      memory.shown = c10::Storage();
    }
    random_ = RandomPlace::now(device_);
    if (settings != settings_) {
      catch_up("LibTorch's settings (TF32, deterministic algorithms, attention) are others than when it was captured");
    }
    return;
  }
  settings_ = settings;
  state_ = State::kCapturing;
  outside_storages_.clear();
  for (Outside& outside : outside_) {
    if (!outside.is_input) continue;
    const at::Tensor form{outside.pattern};
    outside.buffer = at::empty_strided(form.sizes(), form.strides(), form.options());
    outside_storages_.emplace(outside.buffer.storage().unsafeGetStorageImpl(),
                              static_cast<int32_t>(&outside - outside_.data()));
  }
  // A weight that was cast before must be cast in the graph.
  at::autocast::clear_cache();
}

bool Tape::follow_moved() {
  if (moved_ == nullptr || moved_->device.type() != device_ || moved_->stays_in_place) return false;
  if (moved_->written && !can_be_copied_back(at::Tensor(moved_->pattern))) return false;
  moved_->is_input = true;
  move_out();
  pool_.remove(*this);
  memories_.clear();
  segments_.clear();
  owned_ = std::make_shared<Owned>();
  captured_ = false;
  return true;
}

/// While the step is replayed nobody draws random numbers before the launch.
bool Tape::seed_was_set() const { return state_ == State::kReplaying && RandomState::now(device_) != random_.state(); }

bool Tape::unknown_work() { return state_ == State::kCapturing && open_ && capture_.has_unknown_work(); }

/// What was captured so far has something in it that only this step can do, and does it: nothing of it runs again.
void Tape::launch_partly(const std::string& reason) {
  refuse(reason);
  fallback_ = reason;
  state_ = State::kPassed;
  close_segment();
}

void Tape::pass_by(std::string reason) {
  refuse(reason);
  catch_up(reason);
}

void Tape::on_operator(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  if (unknown_work()) launch_partly(kUnknownWork);
  if (state_ != State::kCapturing && state_ != State::kReplaying) return op.callBoxed(stack);
  if (position_ == entries_.size()) {
    complete();
    return op.callBoxed(stack);
  }
  const Entry& entry = entries_[position_];
  const std::string why = entry.draws && seed_was_set() ? kSeedWasSet : mismatch_of(entry, op, stack);
  if (!why.empty()) {
    if (asks_for_outcome(op) && answers(entry, op, stack)) return;
    catch_up(why);
    return op.callBoxed(stack);
  }
  switch (entry.kind) {
    case Entry::Kind::kHost:
      op.callBoxed(stack);
      ++position_;
      return;
    case Entry::Kind::kFeed:
      return feed(entry, op, stack);
    case Entry::Kind::kRead:
      return read([&] { op.callBoxed(stack); });
    default:
      state_ == State::kCapturing ? capture(entry, op, stack) : replay(entry, stack);
  }
}

/// What the host asks is whether an update was left out.
bool Tape::answers(const Entry& entry, const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  const auto* outcomes = outcomes_in(stack, op.schema().arguments().size());
  const bool launched = std::none_of(entries_.begin() + static_cast<std::ptrdiff_t>(launched_),
                                     entries_.begin() + static_cast<std::ptrdiff_t>(position_), [&](const Entry& one) {
                                       if (one.name != kPublishesOutcome) return false;
                                       const Ref& ref = one.arguments[1].tensors.front();
                                       return outside_[ref.index].current.unsafeGetTensorImpl() == outcomes;
                                     });
  if (launched) {
    open_ ? capture_.do_now([&] { op.callBoxed(stack); }) : op.callBoxed(stack);
    return true;
  }
  if (entry.kind != Entry::Kind::kRead || entry.name != kAsksForOutcome || seed_was_set()) return false;
  read([&] { op.callBoxed(stack); });
  return true;
}

void Tape::on_backward(const at::Tensor& root, const PassOptions& pass) {
  const Unobserved own;
  if (unknown_work()) launch_partly(kUnknownWork);
  if (state_ != State::kCapturing && state_ != State::kReplaying) return host_.run(root, pass);
  if (position_ == entries_.size()) {
    complete();
    return host_.run(root, pass);
  }
  Entry& entry = entries_[position_];
  const std::string why = entry.draws && seed_was_set() ? kSeedWasSet : mismatch_of(entry, root, pass);
  if (!why.empty()) {
    catch_up(why);
    return host_.run(root, pass);
  }
  if (state_ == State::kReplaying) {
    host_.repeated(pass);
    for (Leaf& leaf : entry.leaves) {
      if (!(leaf.after == leaf.before)) leaf.parameter.mutable_grad() = given(leaf.after);
    }
    ++position_;
    return;
  }
  std::vector<Leaf> leaves;
  if (const std::string why = find_leaves(root, leaves); !why.empty()) {
    catch_up(why);
    return host_.run(root, pass);
  }
  if (!open_) open_segment();
  try {
    host_.await_arrivals();
    host_.run(root, pass);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    pass_by("its backward pass cannot be captured: " + text.substr(0, text.find('\n')));
    return host_.run(root, pass);
  }
  for (const Leaf& leaf : entry.leaves) bind(leaf.after, leaf.parameter.grad());
  ++position_;
  capture_.mark();
}

void Tape::on_read(std::string_view name) {
  const Unobserved own;
  if (state_ != State::kCapturing && state_ != State::kReplaying) return;
  if (position_ == entries_.size()) return complete();
  const Entry& entry = entries_[position_];
  if (seed_was_set()) return catch_up(kSeedWasSet);
  if (entry.kind != Entry::Kind::kRead || entry.op || entry.name != name) {
    return catch_up("operator " + std::to_string(position_) + ": got " + std::string(name) + ", captured " +
                    entry.name);
  }
  read([] {});
}

void Tape::read(const std::function<void()>& read) {
  const bool there = state_ == State::kCapturing ? close_segment() : launch();
  read();
  if (there) launched_ = ++position_;
}

void Tape::feed(const Entry& entry, const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  copy_late();
  if (open_) {
    capture_.do_now([&] { op.callBoxed(stack); });
  } else {
    op.callBoxed(stack);
  }
  const size_t first = stack.size() - entry.results.size();
  for (size_t i = 0; i < entry.results.size(); ++i) {
    if (matches(entry.results[i], stack[first + i])) continue;
    return catch_up("operator " + std::to_string(position_) + " " + entry.name + ": its result has another form");
  }
  ++position_;
}

void Tape::do_apart(const std::function<void()>& work) {
  const Unobserved own;
  copy_late();
  open_ ? capture_.do_now(work) : work();
}

void Tape::complete() {
  if (state_ == State::kCapturing) {
    finish_capture();
  } else if (seed_was_set()) {
    catch_up(kSeedWasSet);
  } else if (keeps_unspent_graph()) {
    catch_up("a result that no backward pass has used is kept beyond the operators that were captured");
  } else if (launch()) {
    launched_ = position_;
    state_ = State::kDone;
  }
}

void Tape::end() {
  const Unobserved own;
  if (state_ == State::kCapturing || state_ == State::kReplaying) {
    const bool at_read = position_ < entries_.size() && entries_[position_].kind == Entry::Kind::kRead;
    if (position_ == entries_.size() || (at_read && state_ == State::kReplaying)) {
      complete();
    } else {
      catch_up("the step ended before " + entries_[position_].name);
    }
  }
  state_ = State::kIdle;
  for (Outside& outside : outside_) outside.current = at::Tensor();
}

}  // namespace accelerate::internal
