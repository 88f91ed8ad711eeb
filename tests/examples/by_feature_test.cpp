// The ported scripts of the original, as they are, in one process and in two.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "examples/by_feature/accuracy.h"
#include "examples/by_feature/stratified_k_fold.h"
#include "examples/digits/data.h"
#include "tests/examples/program.h"

namespace {

using examples::Finished;
using testing::HasSubstr;

double last_number(const std::string& line) { return std::stod(line.substr(line.rfind(' ') + 1)); }

size_t count_of(const std::string& words, const std::string& text) {
  size_t count = 0;
  for (size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++count;
  return count;
}

struct Script {
  const char* command;
  const char* last_words;  ///< of the last line, before its accuracy
  size_t epochs;
  double accuracy;  ///< an untrained network has 0.1
};
void PrintTo(const Script& script, std::ostream* out) { *out << script.command; }

class ByFeature : public testing::TestWithParam<Script> {};
INSTANTIATE_TEST_SUITE_P(
    Scripts, ByFeature,
    testing::Values(Script{"gradient_accumulation", "epoch 2: accuracy", 3, 0.9},
                    Script{"gradient_accumulation --gradient_accumulation_steps 4", "epoch 2: accuracy", 3, 0.6},
                    Script{"gradient_accumulation --mixed_precision bf16", "epoch 2: accuracy", 3, 0.9},
                    Script{"cross_validation", "Average test metrics from all folds: accuracy", 9, 0.9},
                    Script{"local_sgd", "epoch 2: accuracy", 3, 0.8},
                    Script{"local_sgd --local_sgd_steps 2 --gradient_accumulation_steps 2", "epoch 2: accuracy", 3,
                           0.5}));

TEST_P(ByFeature, RunsInOneProcessAndInTwo) {
  const Script& script = GetParam();
  for (const int processes : {1, 2}) {
    const std::string command = std::string("by_feature/") + script.command;
    const Finished training = processes == 1 ? examples::run(command) : examples::launch(processes, command);
    ASSERT_EQ(training.status, 0) << training.output;
    EXPECT_THAT(training.last_line(), HasSubstr(script.last_words));
    EXPECT_GE(last_number(training.last_line()), script.accuracy) << processes << " processes\n" << training.output;
    EXPECT_EQ(count_of("epoch ", training.output), script.epochs) << "printed once, however many processes";
  }
}

TEST(ByFeatureScripts, SayWhatIsWrongWithTheirOptions) {
  const Finished precision = examples::run("by_feature/gradient_accumulation --cpu --mixed_precision int3");
  EXPECT_EQ(precision.status, 1);
  EXPECT_THAT(precision.output, HasSubstr("gradient_accumulation: [mixed_precision]"));
  const Finished folds = examples::run("by_feature/cross_validation --num_folds 1");
  EXPECT_EQ(folds.status, 1);
  EXPECT_THAT(folds.output, HasSubstr("cross_validation: n_splits = 1, expected at least 2"));
}

TEST(StratifiedKFold, FoldsAreThoseOfScikitLearn) {
  const auto folds = by_feature::StratifiedKFold(3).split(torch::tensor({1, 0, 0, 1, 0, 1, 0, 2, 2, 2}, torch::kLong));
  ASSERT_EQ(folds.size(), 3u);
  EXPECT_THAT(folds[0].valid_idxs, testing::ElementsAre(0, 1, 2, 7));
  EXPECT_THAT(folds[1].valid_idxs, testing::ElementsAre(3, 4, 8));
  EXPECT_THAT(folds[2].valid_idxs, testing::ElementsAre(5, 6, 9));
  EXPECT_THAT(folds[2].train_idxs, testing::ElementsAre(0, 1, 2, 3, 4, 7, 8));
  const auto other = by_feature::StratifiedKFold(3).split(torch::tensor({1, 1, 1, 1, 0, 0, 0, 0}, torch::kLong));
  EXPECT_THAT(other[0].valid_idxs, testing::ElementsAre(0, 1, 4)) << "the class that comes first is dealt first";
  EXPECT_THAT(other[1].valid_idxs, testing::ElementsAre(2, 5, 6));
  EXPECT_THAT(other[2].valid_idxs, testing::ElementsAre(3, 7));
}

TEST(StratifiedKFold, FoldsOfTheDigitsAreDisjointAndHaveEveryClassAlike) {
  const digits::Split data = digits::hold_out_every_fifth(digits::read(ACCELERATE_SOURCE_DIR "/data/digits.csv.gz"));
  const at::Tensor labels = data.train.labels;
  for (const int64_t n : {2, 3, 5, 10}) {
    std::set<int64_t> checked;
    for (const auto& fold : by_feature::StratifiedKFold(n).split(labels)) {
      EXPECT_EQ(static_cast<int64_t>(fold.train_idxs.size() + fold.valid_idxs.size()), labels.size(0));
      for (const int64_t row : fold.valid_idxs) EXPECT_TRUE(checked.insert(row).second) << row;
      for (int64_t k = 0; k < 10; ++k) {
        const auto of_class = static_cast<double>((labels == k).sum().item<int64_t>());
        const auto here = (labels.index({torch::tensor(fold.valid_idxs)}) == k).sum().item<int64_t>();
        EXPECT_NEAR(static_cast<double>(here), of_class / static_cast<double>(n), 1) << "class " << k;
      }
    }
    EXPECT_EQ(static_cast<int64_t>(checked.size()), labels.size(0));
  }
}

TEST(StratifiedKFold, MoreFoldsThanMembersAreRefused) {
  EXPECT_THROW(by_feature::StratifiedKFold(4).split(torch::tensor({0, 0, 1}, torch::kLong)), std::invalid_argument);
}

TEST(Accuracy, IsTheShareOfRightOnesOverAllBatchesAndStartsAnew) {
  by_feature::Accuracy metric;
  metric.add_batch(torch::tensor({1, 2, 3}), torch::tensor({1, 2, 0}));
  metric.add_batch(torch::tensor({4}), torch::tensor({4}));
  EXPECT_EQ(metric.compute(), 0.75);
  EXPECT_EQ(metric.compute(torch::tensor({1, 0}), torch::tensor({1, 1})), 0.5);
}

}  // namespace
