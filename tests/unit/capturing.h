#pragma once

#include <optional>
#include <string>

#include "accelerate/accelerate.h"

/// Where captured steps are tested: on the host over a double of a device that captures, or on a GPU.
namespace capturing {

/// Why there is nothing here to test on.
std::optional<std::string> refusal();
c10::Device device();
accelerate::AcceleratorOptions options();
/// Something past LibTorch's operators, with which the device reads `tensor`.
void give_unknown_work(const at::Tensor& tensor);

}  // namespace capturing
