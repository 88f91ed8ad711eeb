#include "accelerate/step/tape/recording.h"

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <utility>

#include "accelerate/step/tape/outcomes.h"
#include "accelerate/tensor/intercept.h"

namespace accelerate::internal {
namespace {

template <class Function>
void for_each_tensor_in(const c10::IValue& value, const Function& function) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) function(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& item : value.toListRef()) for_each_tensor_in(item, function);
  }
}

constexpr size_t kMostEntries = 100'000;

/// Operators of this library have the device write into memory of the host.
constexpr std::string_view kOwnOperators = "accelerate::";

bool is_pinned_memory(const at::Tensor& tensor) { return tensor.defined() && tensor.is_cpu() && tensor.is_pinned(); }

bool is_number(const at::Tensor& tensor) { return tensor.unsafeGetTensorImpl()->is_wrapped_number(); }

bool same_refs(const std::vector<Ref>& a, const std::vector<Ref>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Ref& x, const Ref& y) {
    // Which number is which follows from the order in which they come.
    return x.kind == y.kind && x.requires_grad == y.requires_grad && (x.kind == Ref::Kind::kHost || x.index == y.index);
  });
}

bool same_arguments(const std::vector<Argument>& a, const std::vector<Argument>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Argument& x, const Argument& y) {
    return x.kind == y.kind && same_refs(x.tensors, y.tensors) && same_constant(x.constant, y.constant);
  });
}

bool same_entry(const Entry& a, const Entry& b) {
  if (a.made_differentiable != b.made_differentiable) return false;
  if (a.op != b.op || a.kind != b.kind || a.name != b.name || !(a.mode == b.mode)) return false;
  // The host's own results may differ: they are computed again each time.
  if (a.kind != Entry::Kind::kHost && !same_arguments(a.arguments, b.arguments)) return false;
  if (a.kind != Entry::Kind::kBackward) return true;
  return a.root == b.root && a.pass == b.pass &&
         std::equal(a.leaves.begin(), a.leaves.end(), b.leaves.begin(), b.leaves.end(),
                    [](const Leaf& x, const Leaf& y) {
                      return x.parameter.is_same(y.parameter) && x.before == y.before && x.after == y.after;
                    });
}

/// Normalisations do not say that they change their running statistics.
bool writes(const c10::FunctionSchema& schema, size_t argument) {
  const c10::Argument& one = schema.arguments()[argument];
  if (one.alias_info() != nullptr && one.alias_info()->isWrite()) return true;
  return one.name() == "running_mean" || one.name() == "running_var";
}

}  // namespace

bool Recording::Written::is_as_it_was() const {
  const auto* now = tensor.has_storage() ? tensor.storage().unsafeGetStorageImpl() : nullptr;
  return tensor.sizes() == sizes && tensor.strides() == strides && tensor.storage_offset() == offset &&
         now == storage && (tensor.requires_grad() || !requires_grad);
}

Ref Recording::host(const at::Tensor& tensor) {
  if (tensor.dim() != 0) return {.kind = Ref::Kind::kUnknown};
  numbers_.push_back(tensor.detach().clone());
  if (is_number(tensor)) numbers_.back().unsafeGetTensorImpl()->set_wrapped_number(true);
  return {.kind = Ref::Kind::kHost, .index = static_cast<int32_t>(numbers_.size() - 1)};
}

void Recording::check_layout(const at::Tensor& tensor) {
  if (tensor.layout() != at::kStrided) refuse("it computes with sparse tensors");
  if (tensor.is_conj() || tensor.is_neg()) refuse("it computes with lazily conjugated tensors");
}

Ref Recording::taken(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  if (!on_device(tensor) || is_number(tensor)) return host(tensor);
  const auto found = known_.find(tensor.unsafeGetTensorImpl());
  Ref ref = found != known_.end() ? found->second : outside(tensor);
  if (ref.kind != Ref::Kind::kOutside) return ref;
  ref.requires_grad = tensor.requires_grad();
  if (tensor.has_storage() && tensor.const_data_ptr() != outside_[ref.index].data) {
    refuse("the memory of a tensor is replaced in the middle of the step, such as by set_data()");
  }
  return ref;
}

Ref Recording::outside(const at::Tensor& tensor) {
  check_layout(tensor);
  if (tensor.has_storage() && made_storages_.contains(tensor.storage().unsafeGetStorageImpl())) {
    refuse("it uses a tensor that shares memory with a result and was made past LibTorch's operators, such as .data()");
  }
  outside_.push_back(
      {.tensor = tensor,
       .data = tensor.has_storage() ? tensor.const_data_ptr() : nullptr,
       .requires_grad = tensor.requires_grad(),
       .written = tensor.has_storage() && written_storages_.contains(tensor.storage().unsafeGetStorageImpl())});
  const Ref ref{.kind = Ref::Kind::kOutside, .index = static_cast<int32_t>(outside_.size() - 1)};
  known_.emplace(tensor.unsafeGetTensorImpl(), ref);
  return ref;
}

Ref Recording::pinned(const at::Tensor& tensor) {
  const auto found = known_.find(tensor.unsafeGetTensorImpl());
  return found != known_.end() ? found->second : outside(tensor);
}

Ref Recording::made(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  if (!on_device(tensor)) return {.kind = Ref::Kind::kUnknown};
  const auto found = known_.find(tensor.unsafeGetTensorImpl());
  if (found != known_.end()) return found->second;
  check_layout(tensor);
  bool of_outside = false;
  if (tensor.has_storage()) {
    const auto* storage = tensor.storage().unsafeGetStorageImpl();
    of_outside = std::any_of(outside_.begin(), outside_.end(), [&](const OutsideTensor& outside) {
      return outside.tensor.has_storage() && outside.tensor.storage().unsafeGetStorageImpl() == storage;
    });
    if (!of_outside) made_storages_.try_emplace(storage, tensor.storage().getWeakStorageImpl());
  }
  made_.push_back({.object = WeakTensorObject(tensor.getIntrusivePtr()),
                   .requires_grad = tensor.requires_grad(),
                   .of_outside = of_outside});
  const Ref ref{.kind = Ref::Kind::kValue, .index = static_cast<int32_t>(made_.size() - 1)};
  known_.emplace(tensor.unsafeGetTensorImpl(), ref);
  return ref;
}

Entry::Kind Recording::kind_of(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments,
                               const std::vector<c10::IValue>& results) {
  const bool own = op.schema().name().starts_with(kOwnOperators);
  bool takes_device = false, takes_host = false, takes_host_data = false, makes_device = false, tells_host = false;
  for (const c10::IValue& argument : arguments) {
    for_each_tensor_in(argument, [&](const at::Tensor& tensor) {
      const bool device = on_device(tensor) && !is_number(tensor);
      takes_device |= device;
      takes_host |= !device;
      takes_host_data |= !device && tensor.dim() != 0 && !(own && is_pinned_memory(tensor));
    });
  }
  for (const c10::IValue& result : results) {
    bool any = false;
    for_each_tensor_in(result, [&](const at::Tensor& tensor) {
      any = true;
      (on_device(tensor) ? makes_device : tells_host) = true;
    });
    const bool empty = result.isNone() || result.isTensor() || result.isList();
    tells_host |= !any && !empty;
  }
  if (takes_device && tells_host) {
    if (makes_device) refuse(op.schema().name() + " gives something to the host and to the device at once");
    return Entry::Kind::kRead;
  }
  if (!takes_device && !makes_device) return Entry::Kind::kHost;
  if (!takes_device && takes_host) return Entry::Kind::kFeed;
  if (takes_host_data) refuse(op.schema().name() + " mixes tensors of the host and of the device");
  return Entry::Kind::kOperator;
}

void Recording::check_seed() {
  if (RandomState::now(device_) != random_) refuse("the seed of the random numbers is set in the middle of the step");
}

/// The generator of the host does not tell.
bool Recording::has_drawn() {
  const RandomState before = std::exchange(random_, RandomState::now(device_));
  return device_ == c10::kCPU || before != random_;
}

void Recording::note_written(const Ref& ref) {
  const c10::StorageImpl* storage = nullptr;
  if (ref.kind == Ref::Kind::kOutside) {
    outside_[ref.index].written = true;
    if (outside_[ref.index].tensor.has_storage()) {
      storage = outside_[ref.index].tensor.storage().unsafeGetStorageImpl();
    }
  } else if (ref.kind == Ref::Kind::kValue && made_[ref.index].of_outside) {
    const auto object = made_[ref.index].object.lock();
    if (object.defined()) storage = object->unsafe_storage().unsafeGetStorageImpl();
  }
  if (storage == nullptr || !written_storages_.insert(storage).second) return;
  for (OutsideTensor& outside : outside_) {
    if (!outside.tensor.has_storage()) continue;
    outside.written = outside.written || outside.tensor.storage().unsafeGetStorageImpl() == storage;
  }
}

/// Whoever shares memory with what is written has its graph from then on.
void Recording::find_made_differentiable(const std::vector<Written>& written, Entry& entry) {
  for (const Written& one : written) {
    if (!one.tensor.requires_grad() || one.storage == nullptr) continue;
    for (size_t i = 0; i < made_.size(); ++i) {
      if (made_[i].requires_grad) continue;
      const auto object = made_[i].object.lock();
      if (!object.defined() || !object->requires_grad()) continue;
      made_[i].requires_grad = true;
      entry.made_differentiable.push_back(static_cast<int32_t>(i));
    }
    return;
  }
}

void Recording::on_operator(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  if (entries_.size() >= kMostEntries) refuse("it does not come to an end: no optimizer steps, and no window closes");
  if (!refusal_.empty()) {
    outside_.clear();  // it is held for comparison alone
    return op.callBoxed(stack);
  }
  if (torch::autograd::get_current_graph_task_id() != -1) {
    refuse("autograd was not run by accelerator.backward(loss)");
  }
  check_seed();
  const c10::FunctionSchema& schema = op.schema();
  if (asks_for_outcome(op)) {
    if (published_.contains(outcomes_in(stack, schema.arguments().size()))) on_read(kAsksForOutcome);
    return op.callBoxed(stack);
  }
  if (schema.name() == kPublishesOutcome) published_.insert(outcomes_in(stack, schema.arguments().size()));
  const auto count = static_cast<std::ptrdiff_t>(schema.arguments().size());
  const std::vector<c10::IValue> arguments(stack.end() - count, stack.end());
  Entry entry{.name = schema.name(), .op = op, .mode = Mode::now(device_)};
  std::vector<Written> written;
  const bool reaches_host = schema.name().starts_with(kOwnOperators);
  for (size_t i = 0; i < arguments.size(); ++i) {
    entry.arguments.push_back(argument_of(arguments[i], [&](const at::Tensor& tensor) {
      return reaches_host && is_pinned_memory(tensor) ? pinned(tensor) : taken(tensor);
    }));
    if (!writes(schema, i)) continue;
    for_each_tensor_in(arguments[i], [&](const at::Tensor& tensor) {
      if (!on_device(tensor)) return;
      written.push_back({.tensor = tensor,
                         .sizes = tensor.sizes().vec(),
                         .strides = tensor.strides().vec(),
                         .offset = tensor.storage_offset(),
                         .storage = tensor.has_storage() ? tensor.storage().unsafeGetStorageImpl() : nullptr,
                         .requires_grad = tensor.requires_grad()});
    });
    for (const Ref& ref : entry.arguments.back().tensors) note_written(ref);
  }
  op.callBoxed(stack);
  for (const Written& before : written) {
    if (before.is_as_it_was()) continue;
    refuse(schema.name() + " changes the form of a tensor in place");
  }
  const auto made_count = static_cast<std::ptrdiff_t>(schema.returns().size());
  const std::vector<c10::IValue> results(stack.end() - made_count, stack.end());
  entry.kind = kind_of(op, arguments, results);
  for (const c10::IValue& result : results) {
    entry.results.push_back(argument_of(result, [&](const at::Tensor& tensor) {
      return entry.kind == Entry::Kind::kFeed ? taken(tensor) : made(tensor);
    }));
  }
  entry.draws = has_drawn() || entry.kind == Entry::Kind::kRead;
  if (entry.mode.grad) find_made_differentiable(written, entry);
  entries_.push_back(std::move(entry));
}

void Recording::on_backward(const at::Tensor& root, const PassOptions& pass, const std::function<void()>& run) {
  if (!refusal_.empty()) return run();
  Entry entry{.kind = Entry::Kind::kBackward, .name = "backward", .mode = Mode::now(device_), .pass = pass};
  check_seed();
  entry.root = taken(root);
  if (pass.create_graph) refuse("its gradients have a graph of their own (.create_graph)");
  if (std::string why = find_leaves(root, entry.leaves); !why.empty()) refuse(std::move(why));
  for (Leaf& leaf : entry.leaves) {
    leaf.before = taken(leaf.parameter.grad());
    note_written(leaf.before);
    if (leaf.before.kind == Ref::Kind::kOutside) outside_[leaf.before.index].is_gradient = true;
  }
  run();
  entry.draws = has_drawn();
  for (Leaf& leaf : entry.leaves) leaf.after = made(leaf.parameter.grad());
  entries_.push_back(std::move(entry));
}

void Recording::on_read(std::string_view name) {
  entries_.push_back({.kind = Entry::Kind::kRead, .name = std::string(name), .mode = Mode::now(device_)});
}

std::optional<std::string> Recording::difference(const Recording& first, const Recording& second) {
  const size_t length = std::min(first.entries_.size(), second.entries_.size());
  for (size_t i = 0; i < length; ++i) {
    if (same_entry(first.entries_[i], second.entries_[i])) continue;
    return "operator " + std::to_string(i) + ": " + first.entries_[i].name + " and then " + second.entries_[i].name +
           (first.entries_[i].name == second.entries_[i].name ? " with other arguments" : "");
  }
  if (first.entries_.size() == second.entries_.size()) return std::nullopt;
  return std::to_string(first.entries_.size()) + " operators and then " + std::to_string(second.entries_.size());
}

}  // namespace accelerate::internal
