// One process that no launcher started.
#include "accelerate/comm/world.h"

namespace accelerate::internal {

EnvironmentEntry environment_single() {
  // Asked last: whoever set a launcher's variables counts on several ranks, and one that trained alone would overwrite
  // the others' files.
  return {"single", 0, [](const Environment&) -> std::optional<std::string> { return std::nullopt; },
          [](const Environment&) { return Launched{}; }};
}

}  // namespace accelerate::internal
