#include "accelerate/comm/launched_work.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace accelerate::internal {

bool LaunchedWork::isSuccess() const {
  const std::lock_guard lock(mutex_);
  return event_.query();
}

void LaunchedWork::record() {
  const std::lock_guard lock(mutex_);
  event_.record(c10::impl::getDeviceGuardImpl(device_.type())->getStream(device_));
}

}  // namespace accelerate::internal
