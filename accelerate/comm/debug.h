#pragma once

#include <string>

#include "accelerate/comm/collectives.h"
#include "accelerate/comm/group.h"

namespace accelerate::internal {

/// For debug mode: throws CommError on every rank, naming each rank's verb and arguments, unless all of them are in
/// `operation` with equal `arguments`. One exchange; it goes before whatever the verb exchanges itself, so that no rank
/// is left behind. Source: `accelerate.utils.operations.verify_operation`, which compares shapes alone.
void require_same_call(const Group& group, const std::string& operation, const std::string& arguments);

/// The same for tensors whose sizes may differ, as in padding: throws CommError naming all shapes unless number, dtypes
/// and numbers of dimensions are the same everywhere.
void require_equal_forms(const Group& group, const char* operation, TensorList tensors);

}  // namespace accelerate::internal
