#include "accelerate/strategy/ddp/low_rank.h"

#include <ATen/ATen.h>

#include <mutex>

namespace accelerate::internal {
namespace {

constexpr uint32_t kLargestSeed = 999'999'999;
constexpr uint32_t kMask = (1U << 30) - 1;  // the smallest mask that holds it
static_assert(kMask >= kLargestSeed && kMask / 2 < kLargestSeed);

/// Modified Gram-Schmidt: a column is normalised, then taken out of those that follow.
void gram_schmidt(const at::Tensor& matrices, double epsilon) {
  const int64_t columns = matrices.size(2);
  for (int64_t i = 0; i < columns; ++i) {
    at::Tensor column = matrices.narrow(2, i, 1);
    at::Tensor norm = at::linalg_vector_norm(column, 2, at::IntArrayRef{1}, /*keepdim=*/true);
    if (epsilon == 0) {
      // The original means to leave such a column zero and gets NaN, which error feedback then keeps for ever.
      norm.masked_fill_(norm == 0, 1);
    } else {
      norm = norm + epsilon;
    }
    column.div_(norm);
    if (i + 1 == columns) return;
    at::Tensor rest = matrices.narrow(2, i + 1, columns - i - 1);
    rest.sub_(at::sum(column * rest, at::IntArrayRef{1}, /*keepdim=*/true) * column);
  }
}

/// LibTorch loads the device's linear algebra when it is first used, and throws where two threads do that at once, as
/// ranks that are threads of one process do.
void load_linear_algebra(const at::Tensor& like) {
  static std::once_flag once;
  std::call_once(once, [&] { at::linalg_qr(at::ones({1, 1}, like.options())); });
}

}  // namespace

uint64_t RandintSeeds::next() {
  uint32_t drawn = 0;
  do {
    drawn = static_cast<uint32_t>(engine_()) & kMask;
  } while (drawn > kLargestSeed);
  return drawn;
}

void orthogonalize(const at::Tensor& matrices, double epsilon) {
  const int64_t columns = matrices.size(2);
  const bool half = matrices.scalar_type() == at::kHalf || matrices.scalar_type() == at::kBFloat16;
  if (columns <= 2 || half) return gram_schmidt(matrices, epsilon);
  if (!matrices.is_cpu()) load_linear_algebra(matrices);
  at::Tensor q = matrices;
  at::Tensor r = at::empty({matrices.size(0), columns, columns}, matrices.options());
  at::linalg_qr_out(q, r, matrices, "reduced");
}

}  // namespace accelerate::internal
