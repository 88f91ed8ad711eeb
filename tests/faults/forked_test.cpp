// Ranks that a program starts itself, training with LibTorch: accelerate::launch.
#include <algorithm>
#include <thread>

#include "tests/faults/expectations.h"

namespace accelerate::faults {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

Ended forked(const std::string& fault, Variables more = {}) {
  Variables environment{{"CUDA_VISIBLE_DEVICES", ""}, {"ASAN_OPTIONS", "detect_leaks=0"}};
  environment.merge(more);
  const Ended ended = run({{{FAULTS_FORKED, fault}, environment}}).front();
  EXPECT_FALSE(ended.by_us) << ended.text;
  EXPECT_FALSE(ended.leftover);
  EXPECT_THAT(ended.text, Not(HasSubstr("terminate called")));
  EXPECT_TRUE(shared_memory().empty());
  return ended;
}

TEST(ForkedRanks, Train) {
  const Ended ended = forked("none", {{"OMP_NUM_THREADS", "1"}});
  EXPECT_EQ(ended.exit_code, 0) << ended.text;
  EXPECT_THAT(lines(ended.text), UnorderedElementsAre("rank 0 of 2 trained in bf16 with 1 threads",
                                                      "rank 1 of 2 trained in bf16 with 1 threads", "all returned"));
}

TEST(ForkedRanks, ShareTheCoresOut) {
  const Ended ended = forked("none");
  EXPECT_EQ(ended.exit_code, 0) << ended.text;
  const size_t found = ended.text.find(" with ");
  ASSERT_NE(found, std::string::npos) << ended.text;
  EXPECT_LE(std::stoul(ended.text.substr(found + 6)), std::max(std::thread::hardware_concurrency() / 2, 1U));
}

TEST(ForkedRanks, OneTrainsInPlace) {
  const Ended ended = forked("alone", {{"OMP_NUM_THREADS", "1"}});
  EXPECT_EQ(ended.exit_code, 0) << ended.text;
  EXPECT_THAT(lines(ended.text), UnorderedElementsAre("rank 0 of 1 trained in bf16 with 1 threads", "all returned"));
}

TEST(ForkedRanks, AnAcceleratorOfOneProcessBeforeDoesNotMatter) {
  const Ended ended = forked("accelerator_before", {{"OMP_NUM_THREADS", "1"}});
  EXPECT_EQ(ended.exit_code, 0) << ended.text;
}

TEST(ForkedRanks, TheExceptionOfOneComesHome) {
  const Ended ended = forked("exception");
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_THAT(ended.text, HasSubstr("rank 1 failed: [launch] Rank 1 of 2 threw an exception: got \"this rank's own "
                                    "trouble\", expected every rank to return. After it failed rank 0."));
}

TEST(ForkedRanks, AKilledOneIsNamed) {
  const Ended ended = forked("killed");
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_THAT(ended.text, HasSubstr("rank 1 failed: [launch] Rank 1 of 2 ended before it returned: got SIGKILL"));
}

TEST(ForkedRanks, AreRefusedOnceLibTorchHasThreads) {
  const Ended ended = forked("threads_before");
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.text, AllOf(HasSubstr("refused: [launch] Other threads run, and no copy of this process would have "
                                          "them: got 3 besides this one (faults_forked"),
                                HasSubstr("accelerate-cpp launch")));
}

// LibTorch refuses autograd in a copy once its engine has threads for devices; on the CPU it has none.
TEST(ForkedRanks, ABackwardBeforeDoesNotMatterOnTheCpu) {
  const Ended ended = forked("backward_before", {{"OMP_NUM_THREADS", "1"}});
  EXPECT_EQ(ended.exit_code, 0) << ended.text;
}

}  // namespace
}  // namespace accelerate::faults
