#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <vector>

namespace torch::optim {
class Optimizer;
class OptimizerParamState;
}  // namespace torch::optim

namespace accelerate::internal {

/// The tensors in one parameter's state of LibTorch's own optimizers, defined or not; none of another type's.
std::vector<at::Tensor*> tensors_of_state(torch::optim::OptimizerParamState& state);

/// Moves the state that `optimizer` has already, having stepped or made its state when it was built, to where its
/// parameters are. State of types that are not LibTorch's own stays where it is.
void move_state(torch::optim::Optimizer& optimizer);

/// State of 16 bits that `optimizer` has already becomes float32 where its parameter is of `param`: it is updated in
/// float32 from now on.
void widen_state(torch::optim::Optimizer& optimizer, at::ScalarType param);

}  // namespace accelerate::internal
