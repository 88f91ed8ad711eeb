#include "accelerate/checkpoint/model_file.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>
#include <map>
#include <set>

#include "accelerate/checkpoint/storage.h"
#include "accelerate/comm/group_core.h"
#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"
#include "accelerate/strategy/strategy.h"

namespace accelerate::internal {
namespace {

std::span<std::byte> bytes_of(const at::Tensor& contiguous) {
  return {static_cast<std::byte*>(contiguous.data_ptr()), contiguous.nbytes()};
}

std::string text_of(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (const int64_t extent : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(extent);
  return out + "]";
}

std::string text_of(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

class Collector final : public StateWriter {
 public:
  void write(const ShardedTensor& tensor) override { tensors.push_back(tensor); }
  std::vector<ShardedTensor> tensors;
};

class Requests final : public StateReader {
 public:
  void read(const ShardedTensor& tensor) override { tensors.push_back(tensor); }
  std::vector<ShardedTensor> tensors;
};

/// Keys of one tensor under several names, in the model's order; usually there is one.
using Names = std::vector<std::string>;
struct Target {
  ShardedTensor tensor;
  Names names;
};

/// Two names of one TensorImpl are one target.
std::vector<Target> targets_of(const std::vector<ShardedTensor>& tensors) {
  std::vector<Target> targets;
  std::map<const void*, size_t> seen;
  for (const ShardedTensor& tensor : tensors) {
    const auto [found, fresh] = seen.emplace(tensor.local.unsafeGetTensorImpl(), targets.size());
    if (fresh) targets.push_back({tensor, {}});
    targets[found->second].names.push_back(tensor.name);
  }
  return targets;
}

[[noreturn]] void refuse(const std::string& path, const std::string& got) {
  throw DataError({.place = path,
                   .what = "The file does not fit the model",
                   .got = got,
                   .expected = "the model's own keys and shapes",
                   .remedy =
                       "Nothing was loaded. Build the model as it was saved, or pass {.strict = false} to skip missing "
                       "and unexpected keys"});
}

}  // namespace

namespace {

void write_file(const std::vector<Target>& targets, const Group& group, const StorageFormat& format,
                const std::string& path) {
  StorageLayout layout{.entries = {}, .metadata = {{"format", "pt"}}};
  for (const Target& target : targets) {
    layout.entries.push_back({target.names.front(), target.tensor.local.scalar_type(), target.tensor.global_shape});
  }
  const auto writer = format.create(path, std::move(layout));
  for (const Target& target : targets) {
    const at::Tensor dense = target.tensor.local.detach().cpu().contiguous();
    writer->write(target.names.front(), target.tensor.held.begin * dense.element_size(), bytes_of(dense));
  }
  // Not before: the device may have been let go of in the middle of an exchange while the host waited for its tensors.
  if (group.core() != nullptr) group.core()->require_ranks("save_model");
  writer->commit();
}

}  // namespace

void write_model(const Strategy& strategy, const Group& group, const StorageFormat& format, const std::string& path) {
  Collector collector;
  strategy.save(collector);
  std::exception_ptr failure;
  std::string told;
  if (group.rank() == 0) {
    try {
      write_file(targets_of(collector.tensors), group, format, path);
    } catch (const std::exception& error) {
      failure = std::current_exception();
      told = error.what();
    }
  }
  // Nobody goes on before the file is there, or as if it were.
  told = broadcast_bytes(group, std::move(told), /*from=*/0);
  if (failure) std::rethrow_exception(failure);
  if (told.empty()) return;
  throw DataError({.place = path,
                   .what = "Rank 0 could not write the file",
                   .got = told,
                   .expected = "a complete file",
                   .remedy = "Remove the cause and save again; what stood there before is unchanged"});
}

LoadModelResult read_model(Strategy& strategy, const StorageFormat& format, const std::string& path,
                           LoadModelOptions options) {
  const auto reader = format.open(path);
  Requests requests;
  strategy.load(requests);
  std::map<std::string, const StorageEntry*> in_file;
  for (const StorageEntry& entry : reader->entries()) in_file.emplace(entry.name, &entry);

  LoadModelResult result;
  struct Copy {
    const Target* target;
    const StorageEntry* source;
  };
  std::vector<Copy> copies;
  std::string wrong_shapes;
  const std::vector<Target> targets = targets_of(requests.tensors);
  for (const Target& target : targets) {
    const StorageEntry* source = nullptr;
    for (const std::string& name : target.names) {
      const auto found = in_file.find(name);
      if (found == in_file.end()) continue;
      source = found->second;
      in_file.erase(found);
      if (source->shape != target.tensor.global_shape) {
        wrong_shapes += (wrong_shapes.empty() ? "" : ", ") + name + " " + text_of(source->shape) +
                        " where the model has " + text_of(target.tensor.global_shape);
      }
    }
    if (source != nullptr) {
      copies.push_back({&target, source});
    } else {
      result.missing_keys.push_back(target.names.front());
    }
  }
  for (const auto& [name, entry] : in_file) result.unexpected_keys.push_back(name);

  std::string problems;
  const auto add = [&](const std::string& kind, const std::string& list) {
    if (!list.empty()) problems += (problems.empty() ? "" : "; ") + kind + ": " + list;
  };
  if (options.strict) add("missing keys", text_of(result.missing_keys));
  if (options.strict) add("unexpected keys", text_of(result.unexpected_keys));
  add("wrong shapes", wrong_shapes);
  if (!problems.empty()) refuse(path, problems);

  // Read and convert everything before the first tensor changes: a failure halfway must not leave a mixture.
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> values;
  for (const Copy& copy : copies) {
    const Range held = copy.target->tensor.held;
    at::Tensor value = at::empty(copy.target->tensor.local.sizes(), at::TensorOptions(copy.source->dtype));
    reader->read(copy.source->name, held.begin * value.element_size(), bytes_of(value));
    values.push_back(value.to(copy.target->tensor.local.scalar_type()));
  }
  for (size_t i = 0; i < copies.size(); ++i) at::Tensor(copies[i].target->tensor.local).copy_(values[i]);
  return result;
}

}  // namespace accelerate::internal
