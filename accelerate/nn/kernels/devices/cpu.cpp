// Cross entropy on the CPU, some rows at a time in float32: what the kernels for CUDA are compared with.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <string>

#include "accelerate/core/error.h"
#include "accelerate/nn/kernels/device.h"

namespace accelerate::internal::losses {
namespace {

constexpr int64_t kElements = 1 << 18;  ///< in float32 at a time: they stay in a cache
constexpr float kInfinity = std::numeric_limits<float>::infinity();

void check_targets(const Rows& rows) {
  const int64_t* targets = rows.targets.const_data_ptr<int64_t>();
  const int64_t classes = rows.logits.size(1);
  for (int64_t row = 0; row < rows.targets.numel(); ++row) {
    const int64_t target = targets[row];
    if (target == rows.ignored || (target >= 0 && target < classes)) continue;
    throw DataError(
        {.place = "cross_entropy",
         .what = "A target is none of the " + std::to_string(classes) + " classes",
         .got = std::to_string(target) + " in row " + std::to_string(row),
         .expected = "0 to " + std::to_string(classes - 1) + ", or the ignore_index " + std::to_string(rows.ignored),
         .remedy = "Correct the labels, or give ignore_index the number that marks what has none"});
  }
}

/// Some rows in float32, to be overwritten.
struct Part {
  at::Tensor x, index, ignored;  ///< {count, classes}, {count, 1}, {count, 1}
  int64_t begin, count;

  at::Tensor of(const at::Tensor& numbers) const { return numbers.narrow(0, begin, count).unsqueeze(1); }
};

template <class Action>
void for_each_part(const Rows& rows, const Action& action) {
  const int64_t step = std::max<int64_t>(1, kElements / rows.logits.size(1));
  for (int64_t begin = 0; begin < rows.logits.size(0); begin += step) {
    const int64_t count = std::min(step, rows.logits.size(0) - begin);
    const at::Tensor targets = rows.targets.narrow(0, begin, count).unsqueeze(1), ignored = targets.eq(rows.ignored);
    action(Part{rows.logits.narrow(0, begin, count).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true),
                targets.masked_fill(ignored, 0), ignored, begin, count});
  }
}

void forward(const Rows& rows, const Statistics& out) {
  check_targets(rows);
  for_each_part(rows, [&](const Part& part) {
    const at::Tensor largest = part.x.amax(1, /*keepdim=*/true), chosen = part.x.gather(1, part.index);
    // Where all are -inf no distance is a number, and the loss is none either.
    part.x.sub_(largest.masked_fill(largest.eq(-kInfinity), 0));
    const at::Tensor mean = rows.smoothing > 0 ? part.x.mean(1, /*keepdim=*/true) : at::Tensor();
    const at::Tensor log_sum = part.x.exp_().sum(1, /*keepdim=*/true).log_();
    at::Tensor losses = (largest - chosen).add_(log_sum);
    if (rows.smoothing > 0) {
      losses.mul_(1 - rows.smoothing).add_(log_sum - mean, rows.smoothing);
    }
    part.of(out.losses).copy_(losses.masked_fill_(part.ignored, 0));
    part.of(out.normalizers.select(0, 0)).copy_(largest);
    part.of(out.normalizers.select(0, 1)).copy_(log_sum);
  });
}

void reduce(const Rows& rows, const at::Tensor& losses, const Reduced& out) {
  const auto sum = losses.sum(at::kDouble).item<double>();
  if (!out.share.defined()) {
    out.loss.fill_(sum);
    return;
  }
  const auto kept = static_cast<double>(rows.targets.ne(rows.ignored).sum().item<int64_t>());
  out.loss.fill_(sum / kept);
  out.share.fill_(1 / kept);
}

void backward(const Rows& rows, const at::Tensor& normalizers, const Scale& scale, const at::Tensor& gradient) {
  check_targets(rows);
  const auto classes = static_cast<double>(rows.logits.size(1));
  at::Tensor factors = scale.gradients.expand({rows.logits.size(0)});
  if (scale.share.defined()) factors = factors * scale.share;
  for_each_part(rows, [&](const Part& part) {
    at::Tensor x = part.x.sub_(part.of(normalizers.select(0, 0)));
    x.sub_(part.of(normalizers.select(0, 1))).exp_();
    if (rows.smoothing > 0) x.sub_(rows.smoothing / classes);
    x.scatter_add_(1, part.index, at::full({part.count, 1}, rows.smoothing - 1, x.options()));
    x.mul_(part.of(factors)).masked_fill_(part.ignored, 0);
    gradient.narrow(0, part.begin, part.count).copy_(x);
  });
}

}  // namespace

DeviceLosses losses_cpu() { return {c10::kCPU, forward, reduce, backward}; }

}  // namespace accelerate::internal::losses
