// Which modules are synchronised batch norms, and which become some.
#include <torch/nn/modules/container/sequential.h>

#include <functional>
#include <utility>
#include <vector>

#include "accelerate/core/error.h"
#include "accelerate/nn/sync_batch_norm.h"

namespace accelerate {
namespace internal {
namespace {

/// The module itself, which need not be in a shared_ptr, and all below it.
template <class Action>
void for_each_module(torch::nn::Module& module, Action action) {
  action(module);
  for (const auto& part : module.modules(/*include_self=*/false)) action(*part);
}

}  // namespace

int64_t bind_batch_norms(torch::nn::Module& module, const Group& group) {
  int64_t count = 0;
  for_each_module(module, [&](torch::nn::Module& part) {
    auto* const slot = dynamic_cast<SyncBatchNormSlot*>(&part);
    if (slot == nullptr) return;
    slot->bind(group);
    ++count;
  });
  return count;
}

bool has_bound_batch_norm(torch::nn::Module& module) {
  bool found = false;
  for_each_module(module, [&](torch::nn::Module& part) {
    const auto* const slot = dynamic_cast<const SyncBatchNormSlot*>(&part);
    found = found || (slot != nullptr && slot->group().size() > 1);
  });
  return found;
}

}  // namespace internal

namespace nn {
namespace {

/// What stands in place of `module`, if it is a plain batch norm of the kind `Plain`; empty if it is not.
template <class Sync, class Plain>
torch::nn::AnyModule replacement(torch::nn::Module& module) {
  auto* const plain = dynamic_cast<Plain*>(&module);
  if (plain == nullptr || dynamic_cast<internal::SyncBatchNormSlot*>(&module) != nullptr) return {};
  Sync sync(plain->options);
  sync->take(*plain, [](const at::Tensor& tensor) { return tensor; });
  sync->train(plain->is_training());
  return torch::nn::AnyModule(sync);
}

torch::nn::AnyModule replacement_of(torch::nn::Module& module) {
  auto found = replacement<SyncBatchNorm1d, torch::nn::BatchNorm1dImpl>(module);
  if (found.is_empty()) found = replacement<SyncBatchNorm2d, torch::nn::BatchNorm2dImpl>(module);
  if (found.is_empty()) found = replacement<SyncBatchNorm3d, torch::nn::BatchNorm3dImpl>(module);
  return found;
}

bool is_plain(torch::nn::Module& module) { return !replacement_of(module).is_empty(); }

void find_fixed(torch::nn::Module& module, const std::string& path, std::vector<std::string>& fixed) {
  const bool replaceable = dynamic_cast<torch::nn::SequentialImpl*>(&module) != nullptr;
  for (const auto& child : module.named_children()) {
    const std::string name = path.empty() ? child.key() : path + "." + child.key();
    if (!replaceable && is_plain(*child.value())) fixed.push_back(name);
    find_fixed(*child.value(), name, fixed);
  }
}

int64_t convert(torch::nn::Module& module) {
  int64_t count = 0;
  for (const auto& child : module.named_children()) count += convert(*child.value());
  auto* const sequential = dynamic_cast<torch::nn::SequentialImpl*>(&module);
  if (sequential == nullptr) return count;
  const std::vector<std::string> names = sequential->named_children().keys();
  size_t index = 0;
  for (torch::nn::AnyModule& entry : *sequential) {
    const std::string& name = names.at(index++);
    torch::nn::AnyModule sync = replacement_of(*entry.ptr());
    if (sync.is_empty()) continue;
    sequential->replace_module(name, sync.ptr());
    entry = std::move(sync);
    ++count;
  }
  return count;
}

}  // namespace

int64_t convert_sync_batchnorm(torch::nn::Module& module) {
  std::vector<std::string> fixed;
  if (is_plain(module)) fixed.push_back("the module itself");
  find_fixed(module, "", fixed);
  if (fixed.empty()) return convert(module);
  std::string names;
  for (const std::string& name : fixed) names += (names.empty() ? "" : ", ") + name;
  throw UsageError({.place = "convert_sync_batchnorm",
                    .what = "The type of a member cannot be replaced",
                    .got = names,
                    .expected = "plain batch norms in a torch::nn::Sequential only",
                    .remedy = "Declare these as accelerate::nn::SyncBatchNorm1d, 2d or 3d: options and state-dict keys "
                              "are the same"});
}

}  // namespace nn
}  // namespace accelerate
