#pragma once

#include <c10/core/ScalarType.h>

#include <memory>

#include "accelerate/strategy/ddp/comm_hook.h"

namespace accelerate::internal {

/// Gradients travel as `dtype` and are averaged in it. Source: `default_hooks._compress_hook`.
std::unique_ptr<CommHook> send_as(c10::ScalarType dtype);

/// `inner` is given gradients as `dtype`; what it makes of them is converted back.
/// Source: `default_hooks.fp16_compress_wrapper`.
std::unique_ptr<CommHook> wrap_in(c10::ScalarType dtype, std::unique_ptr<CommHook> inner);

}  // namespace accelerate::internal
