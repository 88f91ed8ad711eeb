#include "accelerate/optim/scheduler_ranks.h"

#include <ATen/ATen.h>

#include <bit>
#include <sstream>

#include "accelerate/core/error.h"

namespace accelerate::internal {

int64_t sum_over_ranks(const Group& group, c10::Device device, int64_t own) {
  const at::Tensor total = at::full({1}, own, at::TensorOptions(at::kLong).device(device));
  group.all_reduce(total).wait();
  return total.item<int64_t>();
}

void require_equal_metrics(const Group& group, c10::Device device, double metric) {
  // As bits: that is how they decide the same, NaN included.
  const at::Tensor own = at::full({1}, std::bit_cast<int64_t>(metric), at::TensorOptions(at::kLong).device(device));
  const at::Tensor all = group.all_gather(own).cpu();
  const int64_t* bits = all.const_data_ptr<int64_t>();
  for (int64_t rank = 1; rank < all.numel(); ++rank) {
    if (bits[rank] == bits[0]) continue;
    std::ostringstream got;
    got.precision(17);
    got << std::bit_cast<double>(bits[0]) << " on rank 0, " << std::bit_cast<double>(bits[rank]) << " on rank " << rank;
    throw CommError(
        {.place = "scheduler.step",
         .what = "The processes pass different metrics, which would part their learning rates",
         .got = got.str(),
         .expected = "the same number everywhere",
         .remedy = "Take it over all processes first: accelerator.reduce(metric, {.reduction = \"mean\"})"});
  }
}

}  // namespace accelerate::internal
