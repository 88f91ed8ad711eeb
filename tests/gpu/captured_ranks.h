#pragma once

#include <array>
#include <functional>
#include <vector>

#include "tests/gpu/ranks.h"

// The same loop on two GPUs step by step and captured.
namespace gpu {

struct Trained {
  std::vector<at::Tensor> tensors;  ///< on the CPU
  accelerate::CudaGraphReport report;
};
using TrainOneRank = std::function<Trained(const accelerate::testing::Rank& rank, bool captured)>;

inline std::array<Trained, 2> train_both(const TrainOneRank& train, bool captured) {
  std::array<Trained, 2> results;
  accelerate::testing::run_ranks(
      2, [&](const accelerate::testing::Rank& rank) { results[rank.rank()] = train(rank, captured); });
  return results;
}

/// Bit for bit. Returns the reports with capture.
inline std::array<accelerate::CudaGraphReport, 2> expect_same(const TrainOneRank& train) {
  const auto usual = train_both(train, false), captured = train_both(train, true);
  for (size_t rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(usual[rank].tensors.size(), captured[rank].tensors.size());
    for (size_t i = 0; i < usual[rank].tensors.size(); ++i) {
      const at::Tensor &a = usual[rank].tensors[i], &b = captured[rank].tensors[i];
      EXPECT_TRUE(a.equal(b)) << "rank " << rank << ", tensor " << i << " differs by "
                              << (a - b).abs().max().item<double>();
    }
  }
  return {captured[0].report, captured[1].report};
}

inline void expect_replayed(const std::array<accelerate::CudaGraphReport, 2>& reports, int64_t more_than) {
  for (const accelerate::CudaGraphReport& report : reports) {
    EXPECT_EQ(report.fallbacks, 0) << report.last_fallback;
    EXPECT_THAT(report.not_captured, testing::IsEmpty());
    EXPECT_GT(report.replayed, more_than);
  }
}

}  // namespace gpu
