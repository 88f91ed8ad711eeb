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
  /// `dtype` unset switches autocast off; `cache_enabled` unset leaves the cache of casts as it is.
  AutocastScope(c10::DeviceType device, std::optional<at::ScalarType> dtype, std::optional<bool> cache_enabled = {});
  ~AutocastScope();
  AutocastScope(AutocastScope && other) noexcept;
  AutocastScope& operator=(AutocastScope&&) = delete;

 private:
  struct Saved {
    c10::DeviceType device;
    bool enabled;
    at::ScalarType dtype;
    bool cache_enabled;
  };
  std::optional<Saved> saved_;
};

/// The scope of a policy's compute dtype; one that changes nothing for a policy without. Parameters of 16 bits are
/// computed with as they are, whatever is switched on around the call.
inline AutocastScope autocast_scope(const PrecisionPolicy& policy, c10::DeviceType device,
                                    const AutocastOptions& options) {
  if (policy.param) return AutocastScope(device, std::nullopt);
  if (!policy.compute) return AutocastScope();
  return AutocastScope(device, options.enabled ? policy.compute : std::nullopt, options.cache_enabled);
}
inline AutocastScope autocast_scope(const PrecisionPolicy& policy, c10::DeviceType device) {
  return autocast_scope(policy, device, policy.autocast);
}

/// The same for code outside a model call: beside parameters of 16 bits, too, autocast makes operands fit each other.
inline AutocastScope outside_scope(const PrecisionPolicy& policy, c10::DeviceType device,
                                   const AutocastOptions& options) {
  if (!policy.low()) return AutocastScope();
  return AutocastScope(device, options.enabled ? policy.low() : std::nullopt, options.cache_enabled);
}

}  // namespace accelerate
