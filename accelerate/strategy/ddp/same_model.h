#pragma once

#include <string>

#include "accelerate/comm/group.h"
#include "accelerate/tensor/parameters.h"

namespace accelerate::internal {

/// What has to be equal on every rank before anything of a model is exchanged.
struct ModelDescription {
  std::string model;    ///< its name, for messages
  std::string options;  ///< of the strategy, as words
  const ParameterTable& table;
  c10::Device device;
};

/// Throws UsageError on every rank, naming ranks and parameters, if the ranks' models differ in names, shapes, strides,
/// dtypes or in what is trainable, or their options do. Reached by every rank; one small exchange if all is well.
void require_same_model(const Group& group, const ModelDescription& description);

}  // namespace accelerate::internal
