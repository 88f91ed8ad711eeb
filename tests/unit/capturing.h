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
/// Counts `counter` on by 1, past LibTorch's operators.
void give_unknown_work(const at::Tensor& counter);
/// The host waits for the device, which throws c10::Error while something is captured.
void wait_for_device();

}  // namespace capturing
