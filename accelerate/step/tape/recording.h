#pragma once

#include <ATen/core/stack.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "accelerate/step/tape/entry.h"
#include "accelerate/step/tape/random.h"

namespace accelerate::internal {

/// A tensor that the step takes from outside, as it was in the recorded step.
struct OutsideTensor {
  at::Tensor tensor;
  const void* data = nullptr;
  bool requires_grad = false;
  bool written = false;
  bool is_gradient = false;  ///< a backward pass adds to it where it is
};

/// A tensor of the device that an operator of the step made.
struct MadeTensor {
  WeakTensorObject object;
  bool requires_grad = false;  ///< when it was made, or since it was written
  bool of_outside = false;     ///< shares the memory of a tensor that the step did not make
};

/// What one step did, written down while it ran as usual.
class Recording {
 public:
  explicit Recording(c10::DeviceType device) : device_(device), random_(RandomState::now(device)) {}

  /// Runs the operator.
  void on_operator(const c10::OperatorHandle& op, torch::jit::Stack& stack);
  /// `run` runs autograd.
  void on_backward(const at::Tensor& root, const PassOptions& pass, const std::function<void()>& run);
  /// The host does something that waits for the device.
  void on_read(std::string_view name);

  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<OutsideTensor>& outside() const { return outside_; }
  const std::vector<MadeTensor>& made() const { return made_; }
  const std::vector<at::Tensor>& numbers() const { return numbers_; }
  /// Why a step like this can never be captured; empty: it may be.
  const std::string& refusal() const { return refusal_; }
  void refuse(std::string reason) {
    if (refusal_.empty()) refusal_ = std::move(reason);
  }

  /// Nothing if both did the same with tensors of the same origin, else where they part.
  static std::optional<std::string> difference(const Recording& first, const Recording& second);

 private:
  /// A tensor that an operator writes, as it was before.
  struct Written {
    at::Tensor tensor;
    std::vector<int64_t> sizes, strides;
    int64_t offset = 0;
    const c10::StorageImpl* storage = nullptr;
    bool requires_grad = false;
    bool is_as_it_was() const;
  };

  bool on_device(const at::Tensor& tensor) const { return tensor.device().type() == device_; }
  Ref taken(const at::Tensor& tensor);
  Ref pinned(const at::Tensor& tensor);
  Ref outside(const at::Tensor& tensor);
  Ref made(const at::Tensor& tensor);
  Ref host(const at::Tensor& tensor);
  Entry::Kind kind_of(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments,
                      const std::vector<c10::IValue>& results);
  void check_layout(const at::Tensor& tensor);
  void check_seed();
  bool has_drawn();
  void note_written(const Ref& ref);
  void find_made_differentiable(const std::vector<Written>& written, Entry& entry);

  c10::DeviceType device_;
  RandomState random_;  ///< after the last entry
  std::vector<Entry> entries_;
  std::vector<OutsideTensor> outside_;
  std::vector<MadeTensor> made_;
  std::vector<at::Tensor> numbers_;  ///< of the host, 0-d
  std::unordered_map<const c10::TensorImpl*, Ref> known_;
  /// Weak, which keeps an address from meaning two storages.
  std::unordered_map<const c10::StorageImpl*, WeakStorage> made_storages_;
  std::unordered_set<const c10::StorageImpl*> written_storages_;  ///< of tensors that the step did not make
  std::unordered_set<const c10::TensorImpl*> published_;          ///< where outcomes of updates of this step come
  std::string refusal_;
};

}  // namespace accelerate::internal
