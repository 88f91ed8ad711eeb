#include "accelerate/comm/launched.h"

#include <ATen/core/ivalue.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace accelerate::internal {

Launched::Launched(c10::Device device)
    : event_(device.type()),
      future_(c10::make_intrusive<c10::ivalue::Future>(c10::NoneType::get(), std::vector<c10::Device>{device})) {
  event_.record(c10::impl::getDeviceGuardImpl(device.type())->getStream(device));
}

}  // namespace accelerate::internal
