#include "accelerate/precision/autocast.h"

#include <ATen/autocast_mode.h>

#include <utility>

namespace accelerate {

AutocastScope::AutocastScope(c10::DeviceType device, std::optional<at::ScalarType> dtype,
                             std::optional<bool> cache_enabled)
    : saved_(Saved{.device = device,
                   .enabled = at::autocast::is_autocast_enabled(device),
                   .dtype = at::autocast::get_autocast_dtype(device),
                   .cache_enabled = at::autocast::is_autocast_cache_enabled()}) {
  at::autocast::set_autocast_enabled(device, dtype.has_value());
  if (dtype) at::autocast::set_autocast_dtype(device, *dtype);
  if (cache_enabled) at::autocast::set_autocast_cache_enabled(*cache_enabled);
  at::autocast::increment_nesting();
}

AutocastScope::~AutocastScope() {
  if (!saved_) return;
  // Cached casts live as long as the outermost scope: a weight that the optimizer changes must be cast again.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(saved_->device, saved_->enabled);
  at::autocast::set_autocast_dtype(saved_->device, saved_->dtype);
  at::autocast::set_autocast_cache_enabled(saved_->cache_enabled);
}

AutocastScope::AutocastScope(AutocastScope&& other) noexcept : saved_(std::exchange(other.saved_, std::nullopt)) {}

}  // namespace accelerate
