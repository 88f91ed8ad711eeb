#include <gtest/gtest.h>
#include <torch/torch.h>

#include <exception>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/parity/replay.h"

namespace parity {

namespace {

/// Traces whose file names start alike share one test; what starts like none of the others belongs to the last. The
/// files are listed when the test runs, so a new one needs no build.
struct Family {
  const char* name;
  const char* prefix;
};
void PrintTo(const Family& family, std::ostream* out) { *out << family.name; }
constexpr Family kFamilies[] = {
    {"AdamWWithoutAccumulation", "adamw-float64-every1-"},
    {"AdamWEverySecondStep", "adamw-float64-every2-"},
    {"AdamWEveryThirdStep", "adamw-float64-every3-"},
    {"PairsOfChoices", "pair-"},
    {"SpecialCases", ""},
};

std::vector<std::string> traces_of(const Family& family) {
  std::vector<std::string> chosen;
  for (const std::string& name : all_traces()) {
    for (const Family& candidate : kFamilies) {
      if (!name.starts_with(candidate.prefix)) continue;
      if (std::string_view(candidate.name) == family.name) chosen.push_back(name);
      break;
    }
  }
  return chosen;
}

class Trace : public testing::TestWithParam<Family> {
 protected:
  // As the generator does; tensors this small gain nothing from more threads.
  void SetUp() override { torch::set_num_threads(1); }
};

TEST_P(Trace, IsReplayedWithTheSameNumbers) {
  const std::vector<std::string> names = traces_of(GetParam());
  ASSERT_FALSE(names.empty()) << "no trace of this family in " << fixture_path("traces");
  const Json problem = read_fixture("problem.json");
  for (const std::string& name : names) {
    try {
      EXPECT_EQ(replay(read_fixture("traces/" + name), problem), "") << name;
    } catch (const std::exception& error) {
      ADD_FAILURE() << name << ": " << error.what();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Original, Trace, testing::ValuesIn(kFamilies),
                         [](const auto& info) { return std::string(info.param.name); });

// A comparison that never fails would prove nothing: one number changed by a little is found, wherever it stands.
TEST(TraceComparison, FindsOneChangedNumber) {
  const Json problem = read_fixture("problem.json");
  const Json original = read_fixture("traces/adamw-float64-every2-norm-cosine-uneven.json");
  ASSERT_EQ(replay(original, problem), "");
  const std::vector<std::pair<std::string, double>> changes = {
      {"/losses/loss/17", 1e-8},
      {"/norms/loss/6", 1e-8},
      {"/learning_rates/optimizer/0/9", 1e-16},
      {"/initial_learning_rates/optimizer/0", 1e-16},
      {"/final_state/model/hidden.weight/5", 1e-8},
  };
  for (const auto& [where, by] : changes) {
    Json changed = original;
    Json& value = changed.at(Json::json_pointer(where));
    value = value.get<double>() + by;
    EXPECT_NE(replay(changed, problem), "") << where;
  }
}

TEST(TraceComparison, FindsAChangedFlag) {
  const Json problem = read_fixture("problem.json");
  const Json original = read_fixture("traces/adamw-float64-every2-norm-cosine-uneven.json");
  for (const std::string where : {"/sync_gradients/3", "/step_was_skipped/3"}) {
    Json changed = original;
    Json& value = changed.at(Json::json_pointer(where));
    value = !value.get<bool>();
    EXPECT_NE(replay(changed, problem), "") << where;
  }
}

TEST(TraceComparison, FindsATraceThatIsLongerThanTheReplay) {
  Json longer = read_fixture("traces/adamw-float64-every1-noclip-fixed-even.json");
  for (const char* column : {"epoch", "batch", "sync_gradients", "step_was_skipped"}) {
    longer.at(column).push_back(longer.at(column).back());
  }
  EXPECT_NE(replay(longer, read_fixture("problem.json")), "");
}

}  // namespace
}  // namespace parity
