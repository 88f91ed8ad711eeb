#include "accelerate/comm/launched.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace accelerate::internal {

bool Launched::isSuccess() const {
  const std::lock_guard lock(mutex_);
  return event_.query();
}

void Launched::record() {
  const std::lock_guard lock(mutex_);
  event_.record(c10::impl::getDeviceGuardImpl(device_.type())->getStream(device_));
}

}  // namespace accelerate::internal
