#include "accelerate/comm/debug.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {

void require_same_call(const Group& group, const std::string& operation, const std::string& arguments) {
  if (group.core() == nullptr) return;
  const std::vector<std::string> calls = all_gather_bytes(group, operation + "(" + arguments + ")");
  if (std::ranges::all_of(calls, [&](const std::string& call) { return call == calls.front(); })) return;
  std::string got;
  bool same_verb = true;
  for (size_t rank = 0; rank < calls.size(); ++rank) {
    got += (rank == 0 ? "process " : "; process ") + std::to_string(rank) + ": " + calls[rank];
    same_verb = same_verb && calls[rank].starts_with(operation + "(");
  }
  throw CommError({.place = operation,
                   .what = same_verb ? "The processes pass different arguments" : "The processes call different verbs",
                   .got = got,
                   .expected = same_verb ? "the same arguments everywhere"
                                         : "the same collectives in the same order on every process",
                   .remedy = same_verb ? "Compute them from what all processes know"
                                       : "Take collectives out of branches that not every process takes, such as "
                                         "is_main_process()"});
}

void require_equal_forms(const Group& group, const char* operation, TensorList tensors) {
  std::ostringstream own;
  for (const at::Tensor* tensor : tensors) {
    if (tensor->defined()) own << tensor->dim() << tensor->scalar_type();
    own << ",";
  }
  const std::vector<std::string> forms = all_gather_bytes(group, own.str());
  const bool same = std::ranges::all_of(forms, [&](const std::string& form) { return form == forms.front(); });
  if (!same) require_equal_shapes(group, operation, tensors);
}

}  // namespace accelerate::internal
