// What every cluster environment promises: a pure answer from variables, a reason for every refusal, a possible World,
// and never a silent one-process run where a launcher counts on several.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "accelerate/comm/world.h"
#include "tests/support/throws_error.h"

namespace accelerate {

/// How GoogleTest names the tests of an environment.
static void PrintTo(const EnvironmentEntry& entry, std::ostream* out) { *out << entry.name; }

namespace {

using support::ThrowsError;
using Variables = std::map<std::string, std::string>;

/// What launchers set for one process of several, and for one alone.
struct Launch {
  const char* launcher;
  Variables variables;
  int64_t size;
};
std::vector<Launch> launches() {
  return {{"none", {}, 1},
          {"torchrun", {{"RANK", "2"}, {"LOCAL_RANK", "0"}, {"WORLD_SIZE", "4"}, {"LOCAL_WORLD_SIZE", "2"}}, 4},
          {"torchrun alone", {{"RANK", "0"}, {"LOCAL_RANK", "0"}, {"WORLD_SIZE", "1"}, {"LOCAL_WORLD_SIZE", "1"}}, 1},
          {"mpich", {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}, 2},
          {"open mpi", {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "3"}}, 3},
          {"mvapich", {{"MV2_COMM_WORLD_RANK", "1"}, {"MV2_COMM_WORLD_SIZE", "2"}}, 2},
          {"slurm step", {{"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_TASKS", "8"}}, 8},
          {"slurm step of one", {{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}, 1}};
}

class EnvironmentContract : public ::testing::TestWithParam<EnvironmentEntry> {};
INSTANTIATE_TEST_SUITE_P(Environments, EnvironmentContract, ::testing::ValuesIn(internal::builtin_environments()),
                         [](const auto& info) { return info.param.name; });

TEST(Environments, NamesAreUniqueAndComplete) {
  std::set<std::string> names;
  for (const EnvironmentEntry& entry : internal::builtin_environments()) {
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
    EXPECT_NE(entry.refusal, nullptr);
    EXPECT_NE(entry.world, nullptr);
  }
  EXPECT_TRUE(names.contains("single")) << "a program that nobody launched has to run";
}

TEST_P(EnvironmentContract, EitherAReasonOrAPossibleWorldOfTheRightSize) {
  for (const Launch& launch : launches()) {
    const Environment environment(launch.variables);
    if (const auto reason = GetParam().refusal(environment)) {
      EXPECT_FALSE(reason->empty()) << launch.launcher;
      continue;
    }
    const World world = GetParam().world(environment);
    EXPECT_EQ(world.size, launch.size) << launch.launcher;
    EXPECT_GE(world.rank, 0);
    EXPECT_LT(world.rank, world.size);
    EXPECT_GE(world.local_rank, 0);
    EXPECT_LT(world.local_rank, world.local_size);
    EXPECT_LE(world.local_size, world.size);
  }
}

TEST_P(EnvironmentContract, TheAnswerDependsOnTheVariablesAlone) {
  for (const Launch& launch : launches()) {
    const Environment environment(launch.variables);
    const auto once = GetParam().refusal(environment);
    EXPECT_EQ(GetParam().refusal(environment), once) << launch.launcher;
    if (once) continue;
    EXPECT_EQ(GetParam().world(environment), GetParam().world(environment)) << launch.launcher;
  }
}

TEST_P(EnvironmentContract, ForeignVariablesChangeNothing) {
  for (const Launch& launch : launches()) {
    Variables more = launch.variables;
    more.insert({{"HOME", "/home/somebody"}, {"SIZE", "7"}, {"RANKS", "3"}, {"SLURM_JOB_ID", "123"}});
    const Environment plain(launch.variables), noisy(more);
    EXPECT_EQ(GetParam().refusal(noisy), GetParam().refusal(plain)) << launch.launcher;
  }
}

// Exactly the launches of one process are known now; the others have to be refused, with every entry's reason.
TEST(DiscoverWorld, FindsOneProcessAndRefusesTheRestWithTheVariable) {
  for (const Launch& launch : launches()) {
    const Environment environment(launch.variables);
    const auto discover = [&] { return internal::discover_world(internal::builtin_environments(), environment); };
    if (launch.size == 1) {
      EXPECT_EQ(discover().environment, "single") << launch.launcher;
      EXPECT_EQ(discover().world, World{}) << launch.launcher;
      continue;
    }
    EXPECT_THAT(discover, ThrowsError<ConfigError>({.place = "environment",
                                                    .what = "No known way of starting processes",
                                                    .got = "=" + std::to_string(launch.size),
                                                    .expected = "one process",
                                                    .remedy = "unset the variable"}))
        << launch.launcher;
  }
}

TEST(DiscoverWorld, ASizeThatIsNoNumberIsNamed) {
  const Environment environment(Variables{{"WORLD_SIZE", "many"}});
  EXPECT_THAT([&] { internal::discover_world(internal::builtin_environments(), environment); },
              ThrowsError<ConfigError>({.place = "WORLD_SIZE",
                                        .what = "not an integer",
                                        .got = "\"many\"",
                                        .expected = "digits",
                                        .remedy = "unset it"}));
}

TEST(DiscoverWorld, TheFirstEntryThatAppliesIsTaken) {
  const auto never = [](const Environment&) -> std::optional<std::string> { return "never"; };
  const auto always = [](const Environment&) -> std::optional<std::string> { return std::nullopt; };
  const std::vector<EnvironmentEntry> entries{
      {"a", never, [](const Environment&) -> World { throw std::logic_error("asked after a refusal"); }},
      {"b", always, [](const Environment&) { return World{.rank = 1, .size = 2}; }},
      {"c", always, [](const Environment&) { return World{}; }}};
  const auto found = internal::discover_world(entries, Environment(Variables{}));
  EXPECT_EQ(found.environment, "b");
  EXPECT_EQ(found.world, (World{.rank = 1, .size = 2}));
}

TEST(DiscoverWorld, WhenNoneAppliesEveryReasonIsListed) {
  const std::vector<EnvironmentEntry> entries{
      {"a", [](const Environment&) -> std::optional<std::string> { return "too hot"; }, nullptr},
      {"b", [](const Environment&) -> std::optional<std::string> { return "too cold"; }, nullptr}};
  EXPECT_THAT([&] { internal::discover_world(entries, Environment(Variables{})); },
              ThrowsError<ConfigError>({.place = "environment",
                                        .what = "No known way",
                                        .got = "a: too hot; b: too cold",
                                        .expected = "one process",
                                        .remedy = "Start"}));
}

RC_GTEST_PROP(DiscoverWorld, ALauncherOfSeveralIsNeverMistakenForOneProcess, ()) {
  const auto name = *rc::gen::element<std::string>("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE",
                                                   "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS");
  const auto size = *rc::gen::inRange<int64_t>(2, 1'000'000);
  Variables variables{{name, std::to_string(size)}};
  if (name != "WORLD_SIZE" && *rc::gen::arbitrary<bool>()) variables["WORLD_SIZE"] = "1";
  RC_ASSERT_THROWS_AS(internal::discover_world(internal::builtin_environments(), Environment(variables)), ConfigError);
}

}  // namespace
}  // namespace accelerate
