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

/// What launchers set for one process, and what it means.
struct Launch {
  const char* launcher;
  Variables variables;
  const char* environment;
  Launched launched;
};
std::vector<Launch> launches() {
  return {
      {"none", {}, "single", {}},
      {"torchrun",
       {{"RANK", "2"},
        {"LOCAL_RANK", "0"},
        {"WORLD_SIZE", "4"},
        {"LOCAL_WORLD_SIZE", "2"},
        {"MASTER_ADDR", "host"},
        {"MASTER_PORT", "1234"},
        {"TORCHELASTIC_USE_AGENT_STORE", "True"},
        {"TORCHELASTIC_RESTART_COUNT", "3"}},
       "torchrun",
       {{.rank = 2, .size = 4, .local_rank = 0, .local_size = 2},
        {.address = "host", .port = 1234, .served = true, .prefix = "attempt_3"}}},
      {"torchrun alone",
       {{"RANK", "0"}, {"LOCAL_RANK", "0"}, {"WORLD_SIZE", "1"}, {"LOCAL_WORLD_SIZE", "1"}, {"MASTER_ADDR", "host"}},
       "torchrun",
       {}},
      {"kubernetes, one process a pod",
       {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "job-0.job"}},
       "torchrun",
       {{.rank = 1, .size = 2}, {.address = "job-0.job", .port = 29500}}},
      {"mpich on one host",
       {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}},
       "mpi",
       {{.rank = 1, .size = 2, .local_rank = 1, .local_size = 2}, {.address = "127.0.0.1", .port = 29500}}},
      {"open mpi on two hosts",
       {{"OMPI_COMM_WORLD_RANK", "1"},
        {"OMPI_COMM_WORLD_SIZE", "3"},
        {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
        {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"},
        {"MASTER_ADDR", "first"},
        {"MASTER_PORT", "4000"}},
       "mpi",
       {{.rank = 1, .size = 3}, {.address = "first", .port = 4000}}},
      {"open mpi 4, whose jobs have a number",
       {{"OMPI_COMM_WORLD_RANK", "0"},
        {"OMPI_COMM_WORLD_SIZE", "2"},
        {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
        {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
        {"OMPI_MCA_ess_base_jobid", "1304428545"}},
       "mpi",
       {{.rank = 0, .size = 2, .local_rank = 0, .local_size = 2}, {.address = "127.0.0.1", .port = 28715}}},
      {"open mpi 5, whose jobs have a name",
       {{"OMPI_COMM_WORLD_RANK", "1"},
        {"OMPI_COMM_WORLD_SIZE", "2"},
        {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
        {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
        {"PMIX_NAMESPACE", "prterun-host-4711@1"}},
       "mpi",
       {{.rank = 1, .size = 2, .local_rank = 1, .local_size = 2}, {.address = "127.0.0.1", .port = 26465}}},
      {"mvapich",
       {{"MV2_COMM_WORLD_RANK", "0"},
        {"MV2_COMM_WORLD_SIZE", "2"},
        {"MV2_COMM_WORLD_LOCAL_RANK", "0"},
        {"MV2_COMM_WORLD_LOCAL_SIZE", "2"}},
       "mpi",
       {{.rank = 0, .size = 2, .local_rank = 0, .local_size = 2}, {.address = "127.0.0.1", .port = 29500}}},
      {"slurm step",
       {{"SLURM_PROCID", "5"},
        {"SLURM_LOCALID", "1"},
        {"SLURM_NODEID", "2"},
        {"SLURM_STEP_NUM_TASKS", "8"},
        {"SLURM_STEP_TASKS_PER_NODE", "2(x3),1(x2)"},
        {"SLURM_STEP_NODELIST", "gpu[007-009,12],login1"},
        {"SLURM_JOB_ID", "17"},
        {"SLURM_STEP_ID", "4"},
        {"SLURM_GPUS_PER_TASK", "1"}},
       "slurm",
       {{.rank = 5, .size = 8, .local_rank = 1, .local_size = 2}, {.address = "gpu007", .port = 21041}, true}},
      {"slurm step of two hosts without a number",
       {{"SLURM_PROCID", "1"},
        {"SLURM_LOCALID", "0"},
        {"SLURM_NODEID", "1"},
        {"SLURM_STEP_NUM_TASKS", "2"},
        {"SLURM_STEP_TASKS_PER_NODE", "1(x2)"},
        {"SLURM_STEP_NODELIST", "alpha,beta"},
        {"MASTER_PORT", "5"}},
       "slurm",
       {{.rank = 1, .size = 2, .local_rank = 0, .local_size = 1}, {.address = "alpha", .port = 5}}},
      {"slurm step of one", {{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}, "single", {}},
      {"mpirun inside a slurm job",
       {{"SLURM_PROCID", "0"},
        {"SLURM_STEP_NUM_TASKS", "2"},
        {"OMPI_COMM_WORLD_RANK", "3"},
        {"OMPI_COMM_WORLD_SIZE", "4"},
        {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
        {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
        {"MASTER_ADDR", "n1"}},
       "mpi",
       {{.rank = 3, .size = 4, .local_rank = 1, .local_size = 2}, {.address = "n1", .port = 29500}}},
      {"torchrun inside a slurm job",
       {{"SLURM_PROCID", "0"},
        {"SLURM_LOCALID", "0"},
        {"SLURM_STEP_NUM_TASKS", "2"},
        {"RANK", "1"},
        {"LOCAL_RANK", "1"},
        {"WORLD_SIZE", "4"},
        {"LOCAL_WORLD_SIZE", "2"},
        {"MASTER_ADDR", "n1"}},
       "torchrun",
       {{.rank = 1, .size = 4, .local_rank = 1, .local_size = 2}, {.address = "n1", .port = 29500}}},
  };
}

class EnvironmentContract : public ::testing::TestWithParam<EnvironmentEntry> {};
INSTANTIATE_TEST_SUITE_P(Environments, EnvironmentContract, ::testing::ValuesIn(internal::builtin_environments()),
                         [](const auto& info) { return info.param.name; });

TEST(Environments, NamesAreUniqueAndComplete) {
  std::set<std::string> names;
  for (const EnvironmentEntry& entry : internal::builtin_environments()) {
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
    EXPECT_TRUE(entry.refusal);
    EXPECT_TRUE(entry.launched);
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
    const World world = GetParam().launched(environment).world;
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
    EXPECT_EQ(GetParam().launched(environment).world, GetParam().launched(environment).world) << launch.launcher;
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

TEST(DiscoverWorld, UnderstandsEveryLauncher) {
  for (const Launch& launch : launches()) {
    const auto found = internal::discover_world(internal::builtin_environments(), Environment(launch.variables));
    EXPECT_EQ(found.environment, launch.environment) << launch.launcher;
    EXPECT_EQ(found.launched.world, launch.launched.world) << launch.launcher;
    EXPECT_EQ(found.launched.rendezvous, launch.launched.rendezvous) << launch.launcher;
    EXPECT_EQ(found.launched.own_gpus, launch.launched.own_gpus) << launch.launcher;
  }
}

TEST(DiscoverWorld, HalfASetNamesWhatIsMissing) {
  struct Half {
    Variables variables;
    const char *got, *missing;
  };
  const std::vector<Half> halves{
      {{{"WORLD_SIZE", "2"}}, "WORLD_SIZE=2 without RANK", "RANK"},
      {{{"RANK", "1"}}, "RANK=1 without WORLD_SIZE", "WORLD_SIZE"},
      {{{"OMPI_COMM_WORLD_SIZE", "2"}}, "OMPI_COMM_WORLD_SIZE=2 without OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK"},
      {{{"PMI_SIZE", "2"}}, "PMI_SIZE=2 without PMI_RANK", "PMI_RANK"},
      {{{"SLURM_STEP_NUM_TASKS", "2"}}, "SLURM_STEP_NUM_TASKS=2 without SLURM_PROCID", "SLURM_PROCID"},
  };
  for (const Half& half : halves) {
    EXPECT_THAT([&] { internal::discover_world(internal::builtin_environments(), Environment(half.variables)); },
                ThrowsError<ConfigError>({.place = "environment",
                                          .what = "variable is missing",
                                          .got = half.got,
                                          .expected = "both",
                                          .remedy = std::string("Set ") + half.missing}));
  }
}

TEST(DiscoverWorld, SeveralProcessesWithoutAPlaceToMeetAreRefusedWithTheLineToType) {
  const Variables two_hosts{{"OMPI_COMM_WORLD_RANK", "1"},
                            {"OMPI_COMM_WORLD_SIZE", "2"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}};
  const std::vector<std::pair<Variables, std::string>> cases{{two_hosts, "mpi"},
                                                             {{{"RANK", "0"}, {"WORLD_SIZE", "2"}}, "torchrun"}};
  for (const auto& [variables, name] : cases) {
    const Environment environment(variables);
    EXPECT_THAT([&] { internal::discover_world(internal::builtin_environments(), environment); },
                ThrowsError<ConfigError>({.place = "environment \"" + name + "\"",
                                          .what = "no place to meet",
                                          .got = "2 processes and no MASTER_ADDR",
                                          .expected = "an address",
                                          .remedy = "export MASTER_ADDR="}));
  }
}

TEST(DiscoverWorld, ARankOutsideItsWorldIsRefused) {
  const Variables variables{{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "host"}};
  EXPECT_THAT([&] { internal::discover_world(internal::builtin_environments(), Environment(variables)); },
              ThrowsError<ConfigError>({.place = "environment \"torchrun\"",
                                        .what = "cannot be",
                                        .got = "rank 2 of 2",
                                        .expected = "from 0",
                                        .remedy = "launcher"}));
}

TEST(DiscoverWorld, APortThatIsNoneIsRefused) {
  const Variables variables{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "host"}, {"MASTER_PORT", "70000"}};
  EXPECT_THAT([&] { internal::discover_world(internal::builtin_environments(), Environment(variables)); },
              ThrowsError<ConfigError>({.place = "environment",
                                        .what = "port",
                                        .got = "MASTER_PORT=70000",
                                        .expected = "1 to 65535",
                                        .remedy = "MASTER_PORT"}));
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

TEST(DiscoverWorld, OfThoseThatApplyTheMostPreferredIsTaken) {
  const auto never = [](const Environment&) -> std::optional<std::string> { return "never"; };
  const auto always = [](const Environment&) -> std::optional<std::string> { return std::nullopt; };
  const std::vector<EnvironmentEntry> entries{
      {"c", 1, always, [](const Environment&) { return Launched{}; }},
      {"a", 3, never, [](const Environment&) -> Launched { throw std::logic_error("asked after a refusal"); }},
      {"b", 2, always, [](const Environment&) {
         return Launched{{.rank = 1, .size = 2}, {.address = "x"}};
       }}};
  const auto found = internal::discover_world(entries, Environment(Variables{}));
  EXPECT_EQ(found.environment, "b");
  EXPECT_EQ(found.launched.world, (World{.rank = 1, .size = 2}));
}

TEST(DiscoverWorld, WhenNoneAppliesEveryReasonIsListed) {
  const std::vector<EnvironmentEntry> entries{
      {"a", 2, [](const Environment&) -> std::optional<std::string> { return "too hot"; }, nullptr},
      {"b", 1, [](const Environment&) -> std::optional<std::string> { return "too cold"; }, nullptr}};
  EXPECT_THAT([&] { internal::discover_world(entries, Environment(Variables{})); },
              ThrowsError<ConfigError>({.place = "environment",
                                        .what = "No known way",
                                        .got = "a: too hot; b: too cold",
                                        .expected = "one launcher",
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
