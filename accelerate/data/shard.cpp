#include "accelerate/data/shard.h"

#include <algorithm>

namespace accelerate {

int64_t ShardPlan::batches() const {
  const int64_t rounds = samples / total_batch_size();
  if (drop_last || samples % total_batch_size() == 0) return rounds;
  return fills_up() || begin_of(rounds) < samples ? rounds + 1 : rounds;
}

std::span<const int64_t> ShardPlan::batch(std::span<const int64_t> order, int64_t index,
                                          std::vector<int64_t>& filled) const {
  const int64_t begin = begin_of(index);
  const int64_t present = std::clamp<int64_t>(samples - begin, 0, batch_size);
  const auto own = order.subspan(static_cast<size_t>(present == 0 ? 0 : begin), static_cast<size_t>(present));
  if (present == batch_size || !fills_up()) return own;
  filled.assign(own.begin(), own.end());
  // A pass of fewer samples than a round is taken over and over again.
  for (int64_t missing = begin + present - samples; filled.size() < static_cast<size_t>(batch_size); ++missing) {
    filled.push_back(order[static_cast<size_t>(missing % samples)]);
  }
  return filled;
}

int64_t ShardPlan::remainder() const { return drop_last ? -1 : samples % total_batch_size(); }

}  // namespace accelerate
