// Every tensor keeps the dtype it has.
#include "accelerate/precision/choice.h"

namespace accelerate::internal {

PrecisionEntry precision_no() {
  return {"no", [](c10::Device) -> std::optional<std::string> { return std::nullopt; }, PrecisionPolicy{}};
}

}  // namespace accelerate::internal
