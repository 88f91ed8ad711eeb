#include <torch/torch.h>

#include "tests/unit/capturing.h"

namespace capturing {

std::optional<std::string> refusal() {
  if (torch::cuda::is_available()) return std::nullopt;
  return "no GPU is visible, or this is a build without CUDA";
}

c10::Device device() { return c10::Device(c10::kCUDA, 0); }

accelerate::AcceleratorOptions options() { return {}; }

void wait_for_device() { torch::cuda::synchronize(); }

/// A kernel that is launched below the dispatcher's key for observers.
void give_unknown_work(const at::Tensor& counter) {
  const c10::impl::ExcludeDispatchKeyGuard past(c10::DispatchKey::TESTING_ONLY_GenericMode);
  counter.add_(1);
}

}  // namespace capturing
