#include "accelerate/comm/split.h"

#include <ATen/ATen.h>

#include <numeric>
#include <string>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

constexpr const char* kVerb = "split_between_processes";

}  // namespace

void CommonLength::add(const at::Tensor& tensor) {
  if (!tensor.defined()) return;
  if (tensor.dim() > 0) return add(tensor.size(0));
  throw UsageError({.place = kVerb,
                    .what = "A tensor has no dimension to share out",
                    .got = "a tensor of 0 dimensions",
                    .expected = "1 or more",
                    .remedy = "Leave it out: every process has the whole of it"});
}

void CommonLength::throw_unequal(int64_t length) const {
  throw UsageError({.place = kVerb,
                    .what = "The parts of the value have different lengths",
                    .got = std::to_string(length) + " for part " + std::to_string(parts_),
                    .expected = std::to_string(length_) + ", as for the parts before it",
                    .remedy = "Split them in calls of their own"});
}

at::Tensor cut_tensor(const at::Tensor& tensor, const Cut& cut) {
  if (!tensor.defined()) return tensor;
  const at::Tensor own = tensor.narrow(0, cut.share.begin, cut.share.size());
  if (cut.missing() == 0) return own;
  std::vector<int64_t> shape = tensor.sizes().vec();
  shape[0] = cut.missing();
  return at::cat({own, tensor.narrow(0, tensor.size(0) - 1, 1).expand(shape)});
}

std::vector<int64_t> split_rows(int64_t rows, const World& world, const SplitOptions& options) {
  const Share share = share_of_process(rows, world);
  std::vector<int64_t> indices(static_cast<size_t>(share.size()));
  std::iota(indices.begin(), indices.end(), share.begin);
  if (options.apply_padding) indices.resize(static_cast<size_t>(share.longest), rows - 1);
  return indices;
}

void throw_not_padded() {
  throw UsageError({.place = kVerb,
                    .what = "The list cannot be filled up",
                    .got = ".apply_padding = true for a view or a set, which cannot repeat its last element",
                    .expected = "a std::vector, std::deque or std::list",
                    .remedy = "Copy the elements into a std::vector first"});
}

}  // namespace accelerate::internal
