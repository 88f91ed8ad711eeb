#pragma once

namespace torch::optim {
class Optimizer;
}

namespace accelerate::internal {

/// Moves the state that `optimizer` has already, having stepped or made its state when it was built, to where its
/// parameters are. State of types that are not LibTorch's own stays where it is.
void move_state(torch::optim::Optimizer& optimizer);

}  // namespace accelerate::internal
