#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/precision/policy.h"

namespace accelerate {

/// What a user chooses as `mixed_precision`; unset means: environment, then default.
class Precision {
 public:
  Precision() = default;
  Precision(const char* name) : name_(name) {}             // NOLINT: `.mixed_precision = "bf16"`
  Precision(std::string name) : name_(std::move(name)) {}  // NOLINT
  const std::optional<std::string>& name() const { return name_; }

 private:
  std::optional<std::string> name_;
};

/// One kind of mixed precision: the plug-in folder `precision/precisions`, and what `.extensions` hands in.
struct PrecisionEntry {
  std::string name;
  /// Nothing when the device can do it, else the reason why not.
  std::function<std::optional<std::string>(c10::Device device)> refusal;
  PrecisionPolicy policy;
};

namespace internal {
std::vector<PrecisionEntry> builtin_precisions();
}  // namespace internal

}  // namespace accelerate
