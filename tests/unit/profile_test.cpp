// accelerator.profile(): what is recorded, where it goes, and what goes wrong with a text.
#include <ATen/record_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "tests/support/temporary_folder.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using accelerate::DataError;
using accelerate::ProfileKwargs;
using accelerate::Profiler;
using accelerate::ProfileSchedule;
using accelerate::UsageError;
using accelerate::support::read_text;
using accelerate::support::TemporaryFolder;
using testing::HasSubstr;
using training::expect_error;

void work() { torch::mm(torch::ones({8, 16}), torch::ones({16, 4})).sum().item<double>(); }

int64_t calls_of(const accelerate::EventList& events, const std::string& key) {
  int64_t calls = 0;
  for (const auto& event : events) calls += event.key == key ? event.count : 0;
  return calls;
}

std::set<std::string> names_in(const std::string& file) {
  std::set<std::string> names;
  const auto trace = nlohmann::json::parse(read_text(file));
  for (const auto& event : trace.at("traceEvents")) {
    if (event.contains("name")) names.insert(event.at("name").get<std::string>());
  }
  return names;
}

class Profile : public testing::Test {
 protected:
  Accelerator accelerator{{.log_sink = [this](accelerate::LogLevel, std::string_view line) { log += line; }}};
  TemporaryFolder folder;
  std::string log;
};

TEST_F(Profile, NamesWhatWasComputed) {
  auto profiler = accelerator.profile();
  for (int i = 0; i < 3; ++i) work();
  profiler.finish();
  const auto events = profiler.key_averages();
  EXPECT_EQ(calls_of(events, "aten::mm"), 3);
  EXPECT_EQ(calls_of(events, "aten::item"), 3);
  double self = 0;
  for (const auto& event : events) {
    self += event.self_cpu_time_total;
    EXPECT_GE(event.self_cpu_time_total, 0) << event.key;
    EXPECT_LE(event.self_cpu_time_total, event.cpu_time_total + 1e-9) << event.key;
  }
  EXPECT_EQ(self, events.self_cpu_time_total());
  const std::string table = events.table();
  EXPECT_THAT(table, HasSubstr("aten::mm"));
  EXPECT_THAT(table, HasSubstr("CPU time total:"));
  EXPECT_EQ(log, "");
}

TEST_F(Profile, PrintsNothing) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  {
    auto profiler = accelerator.profile({.output_trace_dir = folder / "trace"});
    work();
  }
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "nor does LibTorch's recorder";
}

TEST_F(Profile, RecordsBackwardToo) {
  training::Mlp net(1);
  auto model = accelerator.prepare(net);
  const auto [x, y] = training::make_batch(4, 1);
  auto profiler = accelerator.profile();
  accelerator.backward(training::mse(model(x), y));
  profiler.finish();
  EXPECT_GT(calls_of(profiler.key_averages(), "aten::tanh_backward"), 0);
}

TEST_F(Profile, NothingIsRecordedBeforeAndAfter) {
  work();
  {
    auto profiler = accelerator.profile();
    torch::ones({2}).mul(3);
    profiler.finish();
    work();
    EXPECT_EQ(calls_of(profiler.key_averages(), "aten::mm"), 0);
    EXPECT_EQ(calls_of(profiler.key_averages(), "aten::mul"), 1);
  }
  EXPECT_FALSE(torch::profiler::impl::profilerEnabled());
}

// The original's own table: 100 steps, the number of times that the callback is called.
struct Cycles {
  ProfileSchedule schedule;
  int64_t callbacks;
};
class ProfileOfASchedule : public testing::TestWithParam<Cycles> {};
INSTANTIATE_TEST_SUITE_P(Original, ProfileOfASchedule,
                         testing::Values(Cycles{{.wait = 1, .warmup = 1, .active = 2, .repeat = 1}, 1},
                                         Cycles{{.wait = 2, .warmup = 2, .active = 2, .repeat = 2}, 2},
                                         Cycles{{.wait = 0, .warmup = 1, .active = 3, .repeat = 3, .skip_first = 1}, 3},
                                         Cycles{{.wait = 3, .warmup = 2, .active = 1, .repeat = 1, .skip_first = 2}, 1},
                                         Cycles{{.wait = 1, .warmup = 0, .active = 1, .repeat = 5}, 5}));

TEST_P(ProfileOfASchedule, CallsBackAtTheEndOfEachCycle) {
  const auto [schedule, expected] = GetParam();
  const int64_t cycle = schedule.wait + schedule.warmup + schedule.active;
  ASSERT_EQ(expected, std::min((100 - schedule.skip_first) / cycle, schedule.repeat));
  Accelerator accelerator;
  std::vector<std::string> tables;
  std::vector<int64_t> products;
  {
    auto profiler = accelerator.profile(
        {.activities = {"cpu"}, .schedule_option = schedule, .on_trace_ready = [&](Profiler& ready) {
           tables.push_back(ready.key_averages().table());
           products.push_back(calls_of(ready.key_averages(), "aten::mm"));
         }});
    for (int step = 0; step < 100; ++step) {
      work();
      profiler.step();
    }
    EXPECT_EQ(profiler.step_num(), 100);
  }
  EXPECT_EQ(static_cast<int64_t>(tables.size()), expected);
  for (const auto& table : tables) {
    EXPECT_THAT(table, HasSubstr("CPU time total:"));
    EXPECT_THAT(table, HasSubstr("ProfilerStep*"));
  }
  EXPECT_THAT(products, testing::Each(schedule.active)) << "the active steps of each cycle, and no others";
}

TEST_F(Profile, AnUnlimitedScheduleAlsoGivesItsUnfinishedCycle) {
  int calls = 0;
  {
    auto profiler = accelerator.profile(
        {.schedule_option = {.wait = 1, .active = 3}, .on_trace_ready = [&](Profiler&) { ++calls; }});
    for (int step = 0; step < 10; ++step) profiler.step();  // two cycles, and two steps of a third
  }
  EXPECT_EQ(calls, 3);
  calls = 0;
  {
    auto profiler = accelerator.profile(
        {.schedule_option = {.wait = 3, .active = 1}, .on_trace_ready = [&](Profiler&) { ++calls; }});
    for (int step = 0; step < 10; ++step) profiler.step();
  }
  EXPECT_EQ(calls, 2) << "it ends while it waits";
}

TEST_F(Profile, WritesAChromeTraceOfThisProcess) {
  const std::string out = folder / "deep/trace";
  {
    auto profiler = accelerator.profile({.record_shapes = true, .output_trace_dir = out});
    work();
  }
  EXPECT_EQ(log, "");
  const auto names = names_in(out + "/profile_0.json");
  EXPECT_TRUE(names.contains("aten::mm"));
  EXPECT_TRUE(names.contains("aten::sum"));
  const auto trace = nlohmann::json::parse(read_text(out + "/profile_0.json"));
  EXPECT_EQ(trace.at("distributedInfo").at("rank"), 0);
  EXPECT_EQ(trace.at("distributedInfo").at("world_size"), 1);
  EXPECT_EQ(trace.at("record_shapes"), 1);
  bool shapes = false;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.value("name", "") == "aten::mm") {
      shapes = shapes || event.at("args").at("Input Dims") == nlohmann::json({{8, 16}, {16, 4}});
    }
  }
  EXPECT_TRUE(shapes);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out), {}), 1) << "no temporary file stays";
}

TEST_F(Profile, WritesTheLastCycle) {
  const std::string out = folder / "trace";
  {
    auto profiler =
        accelerator.profile({.schedule_option = {.warmup = 1, .active = 1, .repeat = 2}, .output_trace_dir = out});
    for (int step = 0; step < 6; ++step) {
      if (step == 1) torch::ones({2}).cosh();
      if (step == 3) torch::ones({2}).sinh();
      if (step == 5) torch::ones({2}).tan();
      profiler.step();
    }
  }
  const auto names = names_in(out + "/profile_0.json");
  EXPECT_TRUE(names.contains("aten::sinh"));
  EXPECT_TRUE(names.contains("ProfilerStep#3"));
  EXPECT_FALSE(names.contains("aten::cosh"));
  EXPECT_FALSE(names.contains("aten::tan"));
}

TEST_F(Profile, AnExceptionInTheBodyExportsNothing) {
  const std::string out = folder / "trace";
  int calls = 0;
  EXPECT_THROW(
      {
        auto profiler = accelerator.profile({.on_trace_ready = [&](Profiler&) { ++calls; }, .output_trace_dir = out});
        work();
        throw std::runtime_error("in the body");
      },
      std::runtime_error);
  EXPECT_FALSE(std::filesystem::exists(out));
  EXPECT_EQ(calls, 0);
  EXPECT_FALSE(torch::profiler::impl::profilerEnabled());
  auto next = accelerator.profile();
  work();
  next.finish();
  EXPECT_EQ(calls_of(next.key_averages(), "aten::mm"), 1) << "and the next profile is its own";
}

TEST_F(Profile, AProfileInsideAnExceptionsCleanUpExportsAllTheSame) {
  const std::string out = folder / "trace";
  struct CleanUp {
    Accelerator& accelerator;
    std::string out;
    ~CleanUp() {
      auto profiler = accelerator.profile({.output_trace_dir = out});
      work();
    }
  };
  const auto fail = [&] {
    const CleanUp clean_up{accelerator, out};
    throw std::runtime_error("in the body");
  };
  EXPECT_THROW(fail(), std::runtime_error);
  EXPECT_TRUE(std::filesystem::exists(out + "/profile_0.json"));
}

TEST_F(Profile, CanBeWrittenToSeveralPlaces) {
  auto profiler = accelerator.profile({.output_trace_dir = folder / "trace"});
  work();
  profiler.finish();
  profiler.finish();  // does nothing
  profiler.export_chrome_trace(folder / "again/second.json");
  profiler.export_chrome_trace(folder / "trace/profile_0.json");
  EXPECT_EQ(read_text(folder / "again/second.json"), read_text(folder / "trace/profile_0.json"));
  std::filesystem::remove(folder / "trace/profile_0.json");
  expect_error<DataError>([&] { profiler.export_chrome_trace(folder / "third.json"); },
                          {folder / "third.json", "profile_0.json", "written to first", "where it is"});
}

TEST_F(Profile, AHandlerMayWriteWhereItWants) {
  const std::string file = folder / "own.json";
  {
    auto profiler = accelerator.profile({.on_trace_ready = [&](Profiler& ready) { ready.export_chrome_trace(file); },
                                         .output_trace_dir = folder / "trace"});
    work();
  }
  EXPECT_EQ(log, "");
  EXPECT_EQ(read_text(file), read_text(folder / "trace/profile_0.json"));
}

TEST_F(Profile, TellsMemoryShapesAndFlops) {
  auto profiler = accelerator.profile({.record_shapes = true, .profile_memory = true, .with_flops = true});
  const at::Tensor product = torch::mm(torch::ones({8, 16}), torch::ones({16, 4}));
  torch::mm(torch::ones({2, 3}), torch::ones({3, 5}));
  profiler.finish();
  int64_t lines = 0;
  for (const auto& event : profiler.key_averages({.group_by_input_shape = true})) {
    if (event.key != "aten::mm") continue;
    ++lines;
    const bool large = event.input_shapes == "[[8, 16], [16, 4]]";
    EXPECT_TRUE(large || event.input_shapes == "[[2, 3], [3, 5]]") << event.input_shapes;
    EXPECT_EQ(event.flops, large ? 2 * 8 * 16 * 4 : 2 * 2 * 3 * 5);
    EXPECT_EQ(event.cpu_memory_usage, large ? 8 * 4 * 4 : 2 * 5 * 4) << "its result is all that is left";
  }
  EXPECT_EQ(lines, 2);
  const std::string table = profiler.key_averages({.group_by_input_shape = true}).table({.row_limit = -1});
  EXPECT_THAT(table, HasSubstr("CPU Mem"));
  EXPECT_THAT(table, HasSubstr("Input Shapes"));
  EXPECT_THAT(table, HasSubstr("FLOPs"));
}

TEST_F(Profile, OptionsOfTheAcceleratorAreThoseOfAProfileWithout) {
  int calls = 0;
  Accelerator other({.profile_handler = {.on_trace_ready = [&](Profiler&) { ++calls; }}});
  { auto profiler = other.profile(); }
  EXPECT_EQ(calls, 1);
  { auto profiler = other.profile({}); }
  EXPECT_EQ(calls, 1) << "options that are given replace them";
}

TEST_F(Profile, ActivitiesThatAreNotKnownAreRefused) {
  for (const char* name : {"CPU", "gpu", "xpu", "mtia", "hpu", ""}) {
    expect_error<ConfigError>(
        [&] {
          auto profiler = accelerator.profile({.activities = {"cpu", name}});
        },
        {"profile", "\"" + std::string(name) + "\"", "\"cpu\" or \"cuda\"", ".activities"});
  }
  try {
    auto profiler = accelerator.profile({.activities = {"typo"}});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("Invalid profiler activity"));
  }
  auto profiler = accelerator.profile();
}

TEST_F(Profile, CudaWithoutAGpuIsSaidAndLeftOut) {
  {
    auto profiler = accelerator.profile({.activities = {"cpu", "cuda"}});
    work();
    profiler.finish();
    EXPECT_EQ(calls_of(profiler.key_averages(), "aten::mm"), 1);
  }
  EXPECT_THAT(log, HasSubstr("no GPU is visible"));
  expect_error<ConfigError>([&] { auto profiler = accelerator.profile({.activities = {"cuda"}}); },
                            {"profile", "\"cuda\" alone", "\"cpu\"", "Add \"cpu\""});
}

TEST_F(Profile, SchedulesThatAreNoneAreRefused) {
  const auto refused = [&](ProfileSchedule schedule, const char* got, const char* expected) {
    expect_error<ConfigError>([&] { auto profiler = accelerator.profile({.schedule_option = schedule}); },
                              {"profile", got, expected, "without a schedule all is recorded"});
  };
  refused({.wait = 1}, ".schedule_option.active = 0", "1 or more");
  refused({.skip_first = 1}, ".schedule_option.active = 0", "1 or more");
  refused({.active = -1}, ".schedule_option.active = -1", "1 or more");
  refused({.wait = -1, .active = 1}, ".schedule_option.wait = -1", "0 or more");
  refused({.warmup = -2, .active = 1}, ".schedule_option.warmup = -2", "0 or more");
  refused({.active = 1, .repeat = -1}, ".schedule_option.repeat = -1", "0 or more");
  refused({.active = 1, .skip_first = -1}, ".schedule_option.skip_first = -1", "0 or more");
}

TEST_F(Profile, AProcessHasOneAtATime) {
  const auto refused = [](const Accelerator& other, const char* got) {
    expect_error<UsageError>([&] { auto second = other.profile(); },
                             {"profile", got, "one profile at a time", "End the other one first"});
  };
  Accelerator other;
  {
    auto profiler = accelerator.profile({.schedule_option = {.wait = 5, .active = 1}});
    refused(accelerator, "another accelerator.profile()");
    refused(other, "another accelerator.profile()");
    std::thread([&] { refused(other, "another accelerator.profile()"); }).join();
  }
  namespace kineto = torch::autograd::profiler;
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  const std::set<torch::profiler::impl::ActivityType> activities{torch::profiler::impl::ActivityType::CPU};
  kineto::prepareProfiler(config, activities);
  kineto::enableProfiler(config, activities);
  refused(accelerator, "started itself");
  kineto::disableProfiler();
  auto profiler = accelerator.profile();
}

TEST_F(Profile, CallsThatComeTooEarlyOrTooLateSaySo) {
  auto profiler = accelerator.profile();
  expect_error<UsageError>([&] { (void)profiler.key_averages(); },
                           {"profile: key_averages", "after 0 steps", "after finish()", "profiler.finish()"});
  expect_error<UsageError>([&] { profiler.export_chrome_trace(folder / "x.json"); },
                           {"profile: export_chrome_trace", "no cycle", "after finish()", "profiler.finish()"});
  std::thread([&] {
    expect_error<UsageError>([&] { profiler.step(); },
                             {"profile: step", "this thread", "accelerator.profile()", "on one thread"});
    expect_error<UsageError>([&] { profiler.finish(); },
                             {"profile: finish", "this thread", "accelerator.profile()", "on one thread"});
  }).join();
  profiler.finish();
  expect_error<UsageError>([&] { profiler.step(); }, {"profile: step", "after finish()", "before", "after the loop"});
  expect_error<UsageError>([&] { (void)profiler.key_averages({.group_by_input_shape = true}); },
                           {"key_averages", ".group_by_input_shape", "record_shapes", ".record_shapes = true"});
  expect_error<UsageError>([&] { (void)profiler.key_averages().table({.sort_by = "speed"}); },
                           {"EventList::table", "\"speed\"", "cpu_time_total", "Leave it empty"});
  expect_error<UsageError>([&] { (void)profiler.key_averages().table({.time_unit = "h"}); },
                           {"EventList::table", "\"h\"", "\"us\"", "Leave it empty"});
}

TEST_F(Profile, AFileThatCannotBeWrittenIsThrownByFinishAndLoggedByTheScope) {
  std::ofstream(folder / "file") << "in the way";
  const std::string out = folder / "file";
  {
    auto profiler = accelerator.profile({.output_trace_dir = out});
    work();
    expect_error<DataError>([&] { profiler.finish(); }, {out + "/profile_0.json", "", "permission", "another folder"});
  }
  EXPECT_EQ(log, "");
  {
    auto profiler = accelerator.profile({.output_trace_dir = out});
    work();
  }
  EXPECT_THAT(log, HasSubstr("The trace cannot be written"));
  log.clear();
  {
    auto profiler =
        accelerator.profile({.schedule_option = {.wait = 9, .active = 1}, .output_trace_dir = folder / "trace"});
  }
  EXPECT_THAT(log, HasSubstr("Nothing has been recorded yet")) << "the schedule never came to its active step";
}

TEST_F(Profile, WhatAHandlerThrowsComesOutOfStepAndFinish) {
  const auto handler = [](Profiler&) { throw std::runtime_error("in the handler"); };
  auto profiler = accelerator.profile({.schedule_option = {.active = 1}, .on_trace_ready = handler});
  EXPECT_THROW(profiler.step(), std::runtime_error);
  EXPECT_THROW(profiler.finish(), std::runtime_error);
  EXPECT_EQ(log, "");
  { auto scoped = accelerator.profile({.on_trace_ready = handler}); }
  EXPECT_THAT(log, HasSubstr("in the handler"));
}

TEST_F(Profile, AMovedGuardEndsOnceAndMayOutliveTheAccelerator) {
  int calls = 0;
  auto own = std::make_unique<Accelerator>();
  {
    auto profiler = own->profile({.on_trace_ready = [&](Profiler& ready) {
      ++calls;
      EXPECT_EQ(calls_of(ready.key_averages(), "aten::mm"), 1);
    }});
    const auto moved = std::move(profiler);
    own.reset();
    work();
  }
  EXPECT_EQ(calls, 1);
}

}  // namespace
