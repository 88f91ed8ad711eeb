// The original's traces, replayed on a GPU. They were recorded on a CPU.
#include <exception>

#include "tests/gpu/gpu.h"
#include "tests/parity/replay.h"

namespace {

class TraceOnGpu : public gpu::OneGpu {
 protected:
  void SetUp() override {
    OneGpu::SetUp();
    // 10 bits of each factor instead of 24 would hide every mistake.
    at::globalContext().setAllowTF32CuDNN(false);
  }
};

TEST_F(TraceOnGpu, IsReplayedWithTheSameNumbers) {
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
}

}  // namespace
