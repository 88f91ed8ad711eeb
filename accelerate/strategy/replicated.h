#pragma once

#include "accelerate/tensor/parameters.h"
#include "accelerate/tensor/state.h"

namespace torch::nn {
class Module;
}

namespace accelerate::internal {

/// Every parameter and buffer of a module that is held whole, as the module is now: layers may have been replaced.
ParameterTable whole_table(const torch::nn::Module& module);

void save_whole(const torch::nn::Module& module, StateWriter& writer);
void load_whole(const torch::nn::Module& module, StateReader& reader);

}  // namespace accelerate::internal
