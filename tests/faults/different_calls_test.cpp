// Ranks that call different things: every rank says what each of them called.
#include "tests/faults/expectations.h"

namespace accelerate::faults {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class DifferentCalls : public ::testing::TestWithParam<const char*> {
 protected:
  static std::vector<std::string> failures(const std::string& fault, int ranks = 2) {
    std::vector<std::string> said;
    for (const Ended& ended : run_ranks({.fault = fault, .backend = GetParam(), .ranks = ranks})) {
      said.push_back(failure(ended));
    }
    return said;
  }
  static bool gloo() { return std::string(GetParam()) == "gloo"; }
};
INSTANTIATE_TEST_SUITE_P(Backends, DifferentCalls, ::testing::Values("gloo", "shm"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(DifferentCalls, ASkippedGatherMeetsTheNextReduction) {
  const auto said = failures("skipped", 3);
  if (gloo()) {
    EXPECT_THAT(said,
                Each(HasSubstr("] The ranks call different things, rank 0 all_gather, rank 1 gradient all-reduce, "
                               "rank 2 all_gather (number ")));
  } else {
    EXPECT_THAT(said, Each(AllOf(HasSubstr("The ranks of group `world` call different things: got ranks 0, 2: "
                                           "all_gather_coalesced of 40 x Byte; rank 1: all_reduce(sum) of 49 x Float"),
                                 EndsWith("Let every rank reach the same collectives in the same order."))));
  }
}

TEST_P(DifferentCalls, AShapeOfItsOwnInAGather) {
  EXPECT_THAT(
      failures("other_shape_gather"),
      Each(gloo() ? HasSubstr("[gather] The processes pass tensors of different shapes or dtypes: got process 0: "
                              "[3, 2] Float; process 1: [5, 2] Float, expected the same")
                  : HasSubstr("got rank 0: all_gather_coalesced of 40 x Byte; rank 1: all_gather_coalesced "
                              "of 56 x Byte, expected one operation, dtype and number of elements")));
}

TEST_P(DifferentCalls, AShapeOfItsOwnInAReduce) {
  EXPECT_THAT(
      failures("other_shape_reduce"),
      Each(gloo() ? HasSubstr("[reduce] The processes pass tensors of different shapes or dtypes: got process 0: "
                              "[3, 2] Float; process 1: [5, 2] Float, expected the same")
                  : HasSubstr("got rank 0: all_reduce(sum) of 6 x Float; rank 1: all_reduce(sum) of 10 x "
                              "Float, expected one operation, dtype and number of elements")));
}

TEST_P(DifferentCalls, ADtypeOfItsOwnInAGather) {
  EXPECT_THAT(failures("other_dtype_gather"),
              Each(gloo() ? HasSubstr("got process 0: [3, 2] Float; process 1: [3, 2] Double, expected the same")
                          : HasSubstr("of 40 x Byte; rank 1: all_gather_coalesced of 64 x Byte, expected one")));
}

TEST_P(DifferentCalls, ADtypeOfItsOwnInAReduce) {
  EXPECT_THAT(failures("other_dtype_reduce"),
              Each(gloo() ? HasSubstr("got process 0: [3, 2] Float; process 1: [3, 2] Double, expected the same")
                          : HasSubstr("of 6 x Float; rank 1: all_reduce(sum) of 6 x Double, expected one operation")));
}

TEST_P(DifferentCalls, AModelOfItsOwn) {
  EXPECT_THAT(
      failures("other_parameters"),
      Each(AllOf(HasSubstr("[prepare] The model torch::nn::SequentialImpl is not the same on every process: got "
                           "4 parameters and buffers on rank 0 and 6 on rank 1, which has \"3.weight\""),
                 HasSubstr("Build the model from the same configuration on every process"))));
}

TEST_P(DifferentCalls, SettingsOfItsOwn) {
  EXPECT_THAT(failures("other_accumulation"),
              Each(HasSubstr("[Accelerator] The processes are not set up alike: got gradient_accumulation_steps 2 "
                             "(argument) on rank 0, 4 (argument) on rank 1, expected the same on every rank. Give all "
                             "of them the same options and environment.")));
  EXPECT_THAT(failures("other_precision", 3),
              Each(HasSubstr("got mixed_precision no (default) on ranks 0, 2, bf16 (argument) on rank 1, expected")));
}

}  // namespace
}  // namespace accelerate::faults
