// The original's traces, replayed on GPUs. They were recorded on a CPU.
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "tests/gpu/ranks.h"
#include "tests/parity/follower.h"
#include "tests/parity/replay.h"

namespace {

using accelerate::testing::Rank;

/// 10 bits of each factor instead of 24 would hide every mistake.
void compute_exactly() { at::globalContext().setAllowTF32CuDNN(false); }

/// A tolerance is only as good as what is known about the numbers that it lets pass.
void print_deviations() { std::printf("deviations: %s\n", parity::worst_deviations().c_str()); }

class TraceOnGpu : public gpu::OneGpu {};

TEST_F(TraceOnGpu, IsReplayedWithTheSameNumbers) {
  compute_exactly();
  ASSERT_TRUE(accelerate::Accelerator().device().is_cuda());
  const std::vector<std::string> names = parity::all_traces();
  ASSERT_FALSE(names.empty());
  const parity::Json problem = parity::read_fixture("problem.json");
  for (const std::string& name : names) {
    try {
      EXPECT_EQ(parity::replay(parity::read_fixture("traces/" + name), problem), "") << name;
    } catch (const std::exception& error) {
      ADD_FAILURE() << name << ": " << error.what();
    }
  }
  print_deviations();
}

class TraceOnTwoGpus : public gpu::TwoGpus {};

TEST_F(TraceOnTwoGpus, IsReplayedWithTheSameNumbers) {
  compute_exactly();
  const std::vector<std::string> names = parity::all_traces("traces-2");
  ASSERT_FALSE(names.empty());
  const parity::Json problem = parity::read_fixture("problem.json");
  for (const std::string& name : names) {
    const parity::Json trace = parity::read_fixture("traces-2/" + name);
    try {
      accelerate::testing::run_ranks(2, [&](const Rank& rank) {
        const std::string found = parity::replay(parity::trace_of_rank(trace, rank.rank()), problem, rank.options());
        // The other rank would wait for one that stops early.
        if (!found.empty()) throw std::runtime_error("rank " + std::to_string(rank.rank()) + ": " + found);
      });
    } catch (const std::exception& error) {
      ADD_FAILURE() << name << ": " << error.what();
    }
  }
  print_deviations();
}

}  // namespace
