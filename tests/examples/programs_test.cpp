// The example programs, run as a newcomer runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/examples/program.h"

namespace {

using testing::HasSubstr;

using examples::Finished;
using examples::run;

class DigitsProgram : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    out_ = std::filesystem::path(testing::TempDir()) / (std::string("digits_program_") + test->name());
    std::filesystem::remove_all(out_);
  }
  void TearDown() override { std::filesystem::remove_all(out_); }
  Finished digits(const std::string& arguments) { return run("digits --out '" + out_.string() + "' " + arguments); }
  Finished launch(int processes, const std::string& arguments) {
    return examples::launch(processes, "digits --out '" + out_.string() + "' " + arguments);
  }

  std::filesystem::path out_;
};

TEST_F(DigitsProgram, KeepsItsPromises) {
  const Finished training = digits("");
  ASSERT_EQ(training.status, 0) << training.output;
  EXPECT_THAT(training.output, HasSubstr("epoch 15/15  loss "));
  EXPECT_THAT(training.output, HasSubstr("learning rate"));
  EXPECT_TRUE(std::filesystem::exists(out_ / "model.safetensors"));

  const auto summary = nlohmann::json::parse(training.last_line());
  EXPECT_EQ(summary.size(), 11u);
  EXPECT_EQ(summary.at("ranks_equal"), true);
  EXPECT_EQ(summary.at("example"), "digits");
  EXPECT_EQ(summary.at("processes"), 1);
  EXPECT_EQ(summary.at("train_samples"), 1437);
  EXPECT_EQ(summary.at("test_samples"), 360);
  EXPECT_EQ(summary.at("epochs"), 15);
  EXPECT_GE(summary.at("accuracy").get<double>(), 0.98);
  EXPECT_NEAR(summary.at("loss_first").get<double>(), 2.303, 0.3) << "ln 10: nothing is known yet";
  EXPECT_LT(summary.at("loss").get<double>(), 0.1);
  EXPECT_GT(summary.at("seconds").get<double>(), 0);
  EXPECT_GT(summary.at("samples_per_second").get<double>(), 0);
}

TEST_F(DigitsProgram, InSeveralProcessesIsTheSameTraining) {
  const auto one = nlohmann::json::parse(digits("").last_line());
  for (const int processes : {2, 4}) {
    const Finished training = launch(processes, "");
    ASSERT_EQ(training.status, 0) << training.output;
    const auto summary = nlohmann::json::parse(training.last_line());
    EXPECT_EQ(summary.at("processes"), processes);
    EXPECT_EQ(summary.at("ranks_equal"), true);
    EXPECT_NEAR(summary.at("loss_first").get<double>(), one.at("loss_first").get<double>(), 1e-5);
    EXPECT_NEAR(summary.at("accuracy").get<double>(), one.at("accuracy").get<double>(), 0.01);
    const std::string announcement = "a fresh network";
    const size_t first = training.output.find(announcement);
    EXPECT_EQ(training.output.find(announcement, first + 1), std::string::npos) << "print prints once";
  }
}

TEST_F(DigitsProgram, ABatchThatCannotBeSharedIsRefusedOnEveryRank) {
  const Finished training = launch(3, "");
  EXPECT_NE(training.status, 0);
  EXPECT_THAT(training.output, HasSubstr("--batch-size 32 cannot be shared by 3 processes"));
}

TEST_F(DigitsProgram, TrainsInBf16WithAccumulation) {
  const Finished training = digits("--mixed-precision bf16 --gradient-accumulation-steps 2");
  ASSERT_EQ(training.status, 0) << training.output;
  EXPECT_GE(nlohmann::json::parse(training.last_line()).at("accuracy").get<double>(), 0.98);
}

TEST_F(DigitsProgram, IsTheSameRunForTheSameSeedAndAnotherForAnother) {
  const auto losses = [this](const std::string& seed) {
    const auto summary = nlohmann::json::parse(digits("--epochs 1 --seed " + seed + " 2>/dev/null").last_line());
    return std::pair(summary.at("loss_first").get<double>(), summary.at("loss").get<double>());
  };
  const auto third = losses("3");
  EXPECT_EQ(third, losses("3"));
  EXPECT_NE(third, losses("4"));
}

TEST_F(DigitsProgram, FailsWhereAPromiseIsNotKept) {
  const Finished training = digits("--epochs 1");
  EXPECT_EQ(training.status, 1) << "one epoch does not reach 0.98";
  EXPECT_THAT(training.output, HasSubstr("expected accuracy >= 0.98"));
}

TEST_F(DigitsProgram, SaysWhatIsWrongWithItsData) {
  const Finished training = digits("--data /nowhere.csv.gz");
  EXPECT_EQ(training.status, 1);
  EXPECT_THAT(training.output, HasSubstr("digits: [digits data /nowhere.csv.gz] The file cannot be opened"));
}

TEST(GanProgram, DrawsACircle) {
  const Finished training = run("gan");
  EXPECT_EQ(training.status, 0) << training.output;
  EXPECT_THAT(training.output, HasSubstr("radius"));
}

TEST(ActorCriticProgram, LearnsToWalkStraight) {
  const Finished training = run("actor_critic");
  EXPECT_EQ(training.status, 0) << training.output;
  EXPECT_THAT(training.output, HasSubstr("episode 150:"));
}

}  // namespace
