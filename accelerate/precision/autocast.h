#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <optional>

#include "accelerate/precision/policy.h"

namespace accelerate {

/// Source: `accelerate.utils.AutocastKwargs`.
struct AutocastOptions {
  bool enabled = true;                     ///< false: full precision inside an autocast region
  std::optional<bool> cache_enabled = {};  ///< casts of parameters are kept until the guard ends; unset: LibTorch's
};

using AutocastKwargs = AutocastOptions;

/// Autocast switched on or off for this thread until the guard ends, on one device type. Guards nest and must end in
/// reverse order. Source: `torch.autocast`. Leave it before `backward`.
class [[nodiscard("keep the guard: `auto scope = accelerator.autocast();`")]] AutocastScope {
 public:
  /// Changes nothing.
  AutocastScope() = default;
  /// `dtype` unset switches autocast off.
  AutocastScope(c10::DeviceType device, std::optional<at::ScalarType> dtype, std::optional<bool> cache = {});
  ~AutocastScope();
  AutocastScope(AutocastScope && other) noexcept;
  AutocastScope& operator=(AutocastScope&&) = delete;

 private:
  struct Saved {
    c10::DeviceType device;
    bool enabled;
    at::ScalarType dtype;
    bool cache;
  };
  std::optional<Saved> saved_;
};

/// The scope of a policy's compute dtype; one that changes nothing for a policy without.
inline AutocastScope autocast_scope(const PrecisionPolicy& policy, c10::DeviceType device) {
  if (!policy.compute) return {};
  return AutocastScope(device, policy.autocast ? policy.compute : std::nullopt, policy.cache_casts);
}

}  // namespace accelerate
