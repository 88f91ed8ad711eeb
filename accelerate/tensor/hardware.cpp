// Through LibTorch's table of device kinds, which its CUDA libraries enter themselves into when they are loaded: no
// header of CUDA is needed to ask, and nothing of CUDA is linked by asking.
#include "accelerate/tensor/hardware.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace accelerate::internal {

Hardware Hardware::of_process() {
  Hardware found;
  if (c10::impl::hasDeviceGuardImpl(c10::kCUDA)) {
    found.cuda_devices = c10::impl::getDeviceGuardImpl(c10::kCUDA)->deviceCount();
  }
  return found;
}

void make_current(c10::Device device) {
  if (!device.is_cpu()) c10::impl::getDeviceGuardImpl(device.type())->setDevice(device);
}

}  // namespace accelerate::internal
