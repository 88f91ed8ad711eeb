#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <optional>

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
    bool cache_enabled;
  };
  std::optional<Saved> saved_;
};

}  // namespace accelerate
