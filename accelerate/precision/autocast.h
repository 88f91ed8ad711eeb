#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <optional>

#include "accelerate/precision/policy.h"

namespace accelerate {

/// Autocast switched on or off for this thread until the guard ends, on one device type. Guards nest and must end in
/// reverse order. Source: `torch.autocast`. Leave it before `backward`.
class [[nodiscard("keep the guard: `auto scope = accelerator.autocast();`")]] AutocastScope {
 public:
  /// Changes nothing.
  AutocastScope() = default;
  /// `dtype` unset switches autocast off.
  AutocastScope(c10::DeviceType device, std::optional<at::ScalarType> dtype);
  ~AutocastScope();
  AutocastScope(AutocastScope && other) noexcept;
  AutocastScope& operator=(AutocastScope&&) = delete;

 private:
  struct Saved {
    c10::DeviceType device;
    bool enabled;
    at::ScalarType dtype;
  };
  std::optional<Saved> saved_;
};

/// The scope of a policy's compute dtype; one that changes nothing for a policy without.
inline AutocastScope autocast_scope(const PrecisionPolicy& policy, c10::DeviceType device) {
  return policy.compute ? AutocastScope(device, policy.compute) : AutocastScope();
}

}  // namespace accelerate
