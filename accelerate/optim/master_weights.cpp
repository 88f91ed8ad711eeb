#include "accelerate/optim/master_weights.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "accelerate/tensor/memory_bytes.h"

namespace accelerate::internal {
namespace {

uint32_t version_of(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->version_counter().current_version();
}
const void* memory_of(const at::Tensor& tensor) { return tensor.has_storage() ? tensor.const_data_ptr() : nullptr; }

/// Kernels walk both by one index. The strides of a dimension of size 1 do not matter.
bool is_beside(const at::Tensor& master, const at::Tensor& parameter) {
  if (master.device() != parameter.device() || master.sizes() != parameter.sizes()) return false;
  for (int64_t i = 0; i < master.dim(); ++i) {
    if (master.size(i) != 1 && master.stride(i) != parameter.stride(i)) return false;
  }
  return true;
}

at::Tensor empty_beside(const at::Tensor& parameter) {
  return at::empty_like(parameter, parameter.options().dtype(at::kFloat).requires_grad(false),
                        at::MemoryFormat::Preserve);
}

}  // namespace

bool MasterWeights::is_current(const Master& master, const at::Tensor& parameter) {
  if (!master.values.defined() || master.seen.memory != memory_of(parameter)) return false;
  const uint32_t writes = version_of(parameter) - master.seen.parameter;
  // A step that the device repeats counts as a write of both.
  return writes == 0 || writes == version_of(master.values) - master.seen.values;
}

void MasterWeights::note(Master& master) {
  master.seen = {version_of(master.parameter), version_of(master.values), memory_of(master.parameter)};
}

void MasterWeights::adopt(const at::Tensor& parameter, const at::Tensor& values) {
  const at::NoGradGuard no_grad;
  at::Tensor own = values.variable_data();  // with a version of its own
  if (!is_beside(own, parameter)) own = empty_beside(parameter).copy_(values);
  Master& master = masters_[parameter.unsafeGetTensorImpl()];
  master = {parameter, std::move(own), {}};
  note(master);
}

const at::Tensor& MasterWeights::of(const at::Tensor& parameter) {
  const auto [found, fresh] = masters_.try_emplace(parameter.unsafeGetTensorImpl());
  Master& master = found->second;
  if (is_current(master, parameter)) return master.values;
  const at::NoGradGuard no_grad;
  try {
    if (!master.values.defined() || !is_beside(master.values, parameter)) {
      master.values = empty_beside(parameter).copy_(parameter.detach());
    } else if (master.seen.memory != memory_of(parameter)) {
      master.values.copy_(parameter.detach());
    } else {
      const at::Tensor rounded = master.values.to(parameter.scalar_type());
      master.values.copy_(at::where(rounded == parameter.detach(), master.values, parameter.detach().to(at::kFloat)));
    }
  } catch (...) {
    if (fresh) masters_.erase(found);
    throw;
  }
  master.parameter = parameter;
  note(master);
  return master.values;
}

const at::Tensor* MasterWeights::find(const at::Tensor& parameter) const {
  const auto found = masters_.find(parameter.unsafeGetTensorImpl());
  return found == masters_.end() ? nullptr : &found->second.values;
}

void MasterWeights::written(const at::Tensor& parameter) {
  const auto found = masters_.find(parameter.unsafeGetTensorImpl());
  if (found == masters_.end()) return;
  note(found->second);
}

int64_t MasterWeights::bytes_on(c10::Device device) const {
  MemoryCount count(device);
  for (const auto& [impl, master] : masters_) count.add(master.values);
  return count.bytes();
}

}  // namespace accelerate::internal
