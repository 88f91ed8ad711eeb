#include "accelerate/comm/copy.h"

#include <ATen/ATen.h>

#include "accelerate/comm/collectives.h"
#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"
#include "accelerate/tensor/bytes.h"
#include "accelerate/tensor/shape.h"

namespace accelerate::internal {

at::Tensor copy_from_the_one(const Group& group, const at::Tensor& tensor, c10::Device device) {
  const std::vector<std::string> all = all_gather_bytes(group, to_bytes(information_of(tensor)));
  int64_t from = -1;
  std::string owners;
  TensorInformation information;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    auto one = from_bytes<TensorInformation>(all[rank]);
    if (one.dtype == c10::ScalarType::Undefined) continue;
    owners += (owners.empty() ? "one on process " : " and on process ") + std::to_string(rank);
    if (from < 0) information = std::move(one);
    from = from < 0 ? static_cast<int64_t>(rank) : group.size();
  }
  if (from < 0 || from == group.size()) {
    throw UsageError({.place = "copy_tensor_to_devices",
                      .what = "Exactly one process passes the tensor",
                      .got = owners.empty() ? "none on any process" : owners,
                      .expected = "one on one process, and none on the others",
                      .remedy = "Pass at::Tensor() on all processes but one"});
  }
  at::Tensor copy = tensor.defined() ? tensor.detach().to(device).contiguous()
                                     : at::empty(information.shape, at::device(device).dtype(information.dtype));
  at::Tensor* const list[] = {&copy};
  broadcast_all(group, list, from);
  return copy;
}

}  // namespace accelerate::internal
