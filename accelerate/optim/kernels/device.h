#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

#include "accelerate/optim/kernels/call.h"
#include "accelerate/optim/kernels/element.h"

namespace accelerate::internal::kernels {

/// What one kind of device computes. A call's pointers are checked.
struct DeviceKernels {
  c10::DeviceType type;
  void (*adam)(const Adam<0>&, const Call&, c10::Device);
  void (*amsgrad)(const Adam<1>&, const Call&, c10::Device);
  void (*sgd)(const Sgd<0>&, const Call&, c10::Device);
  void (*momentum)(const Sgd<1>&, const Call&, c10::Device);
  void (*lion)(const Lion&, const Call&, c10::Device);
  void (*assign)(const Assign&, const Call&, c10::Device);
  void (*scale)(const ScaleCall&, c10::Device);
  void (*norm)(const NormCall&, c10::Device);
  void (*count_ema)(const EmaDecay&, const EmaClock&, c10::Device);
  void (*ema)(const EmaCall&, c10::Device);
  /// Counts `number` on and writes it with 1 or 0 for skipped into `outcomes`, host memory that the device reaches; the
  /// same 1 or 0 into `kept`, unless it is null.
  void (*publish)(int64_t* number, int64_t* outcomes, const float* skip, float* kept, c10::Device);
  /// Whether everything on the device's current stream is done. Throws after an error, and while it is being captured.
  bool (*idle)(c10::Device);
};

/// One source in `devices/` each.
std::vector<DeviceKernels> builtin_devices();

}  // namespace accelerate::internal::kernels
