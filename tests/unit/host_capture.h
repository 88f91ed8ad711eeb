#pragma once

#include "accelerate/step/capture_device.h"

/// What CUDA's graphs do, on the host, so that everything around them is tested without a GPU: operators between
/// `begin` and `end` are written down with their addresses and leave nothing changed, `launch` runs them again.
accelerate::CaptureDeviceEntry host_capture();

/// As if something had been given to the device past LibTorch's operators.
void give_unknown_work();
