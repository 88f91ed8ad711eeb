// Gradients travel as they are.
#include "accelerate/strategy/ddp/comm_hook.h"

namespace accelerate::internal {

HookEntry hook_no() {
  return {"no",
          [](const CommStateOption& state) -> std::unique_ptr<CommHook> {
            require_no_state("no", state);
            return nullptr;
          },
          [](std::unique_ptr<CommHook> inner) { return inner; }};
}

}  // namespace accelerate::internal
