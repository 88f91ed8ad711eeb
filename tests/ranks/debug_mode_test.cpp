// Debug mode: ranks that do not do the same are named, with what each of them does, before anything is exchanged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::CommError;
using accelerate::support::ThrowsError;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;

/// Backend and number of ranks.
class Debug : public testing::TestWithParam<std::tuple<std::string, int64_t>> {
 protected:
  void on_ranks(const std::function<void(const Accelerator&)>& body) {
    run_ranks(std::get<1>(GetParam()),
              [&](const Rank& rank) {
                const Accelerator accelerator(rank.options({.debug = true}));
                body(accelerator);
                EXPECT_EQ(accelerator.gather(torch::ones({1})).numel(), std::get<1>(GetParam())) << "the group goes on";
              },
              {.backend = std::get<0>(GetParam())});
  }
};
INSTANTIATE_TEST_SUITE_P(Transports, Debug, testing::Combine(testing::Values("gloo", "shm"), testing::Values(2, 4)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + std::to_string(std::get<1>(info.param));
                         });

// Upstream's test_ops.py.
TEST_P(Debug, TableOfTheOriginal) {
  on_ranks([](const Accelerator& accelerator) {
    const bool first = accelerator.is_main_process();
    using Named = std::map<std::string, at::Tensor>;
    const Named named{{"tensor", first ? torch::zeros({1, 5}) : torch::zeros({1, 1, 6})}};
    EXPECT_THAT([&] { accelerator.pad_across_processes(named, {.dim = 0}); },
                ThrowsError<CommError>({.place = "pad_across_processes",
                                        .what = "different shapes",
                                        .got = "process 0: [1, 5] Float; process 1: [1, 1, 6] Float",
                                        .expected = "same shapes",
                                        .remedy = ""}));
    const at::Tensor tensor = first ? torch::zeros({1, 5}) : torch::zeros({1, 2, 5});
    const std::string shapes = "process 0: [1, 5] Float; process 1: [1, 2, 5] Float";
    EXPECT_THAT([&] { accelerator.reduce(tensor); },
                ThrowsError<CommError>(
                    {.place = "reduce", .what = "different shapes", .got = shapes, .expected = "same", .remedy = ""}));
    EXPECT_THAT(
        [&] { accelerator.broadcast(tensor); },
        ThrowsError<CommError>(
            {.place = "broadcast", .what = "different shapes", .got = shapes, .expected = "same", .remedy = ""}));
  });
}

TEST_P(Debug, TheVerbThatEachRankIsInIsNamed) {
  on_ranks([](const Accelerator& accelerator) {
    const at::Tensor x = torch::ones({2});
    const std::vector<std::pair<std::string, std::function<void()>>> verbs{
        {"gather", [&] { accelerator.gather(x); }},
        {"reduce", [&] { accelerator.reduce(x); }},
        {"broadcast", [&] { accelerator.broadcast(x); }},
        {"pad_across_processes", [&] { accelerator.pad_across_processes(x); }},
        {"gather_object", [&] { accelerator.gather_object({"text"}); }},
        {"broadcast_object_list", [&] { accelerator.broadcast_object_list({"text"}); }},
        {"copy_tensor_to_devices", [&] { accelerator.copy_tensor_to_devices(); }},
        {"wait_for_everyone", [&] { accelerator.wait_for_everyone(); }},
        {"synchronize_rng_states", [&] { accelerator.synchronize_rng_states({"torch"}); }},
        {"main_process_first", [&] { static_cast<void>(accelerator.main_process_first()); }},
        {"local_main_process_first", [&] { static_cast<void>(accelerator.local_main_process_first()); }},
    };
    for (size_t i = 0; i < verbs.size(); ++i) {
      const auto& others = verbs[(i + 1) % verbs.size()];
      const auto& own = accelerator.is_main_process() ? verbs[i] : others;
      EXPECT_THAT(own.second, ThrowsError<CommError>({.place = own.first,
                                                      .what = "different verbs",
                                                      .got = "process 0: " + verbs[i].first + "(",
                                                      .expected = "the same collectives in the same order",
                                                      .remedy = "is_main_process()"}));
      EXPECT_THAT(own.second, testing::Throws<CommError>(testing::Property(
                                  &CommError::what, testing::HasSubstr("; process 1: " + others.first + "("))));
    }
  });
}

TEST_P(Debug, ArgumentsThatDifferAreNamed) {
  on_ranks([](const Accelerator& accelerator) {
    const bool first = accelerator.is_main_process();
    const at::Tensor x = torch::ones({2});
    const auto expect = [](const std::function<void()>& call, const std::string& place, const std::string& got) {
      EXPECT_THAT(call, ThrowsError<CommError>({.place = place,
                                                .what = "different arguments",
                                                .got = got,
                                                .expected = "the same arguments",
                                                .remedy = "what all processes know"}));
    };
    expect([&] { accelerator.reduce(x, {.reduction = first ? "sum" : "mean"}); }, "reduce",
           "process 0: reduce(\"sum\", scale 1); process 1: reduce(\"mean\", scale 1)");
    expect([&] { accelerator.broadcast(x, first ? 0 : 1); }, "broadcast",
           "process 0: broadcast(from process 0); process 1: broadcast(from process 1)");
    expect([&] { accelerator.synchronize_rng_states({first ? "torch" : "generator"}); }, "synchronize_rng_states",
           "process 0: synchronize_rng_states(torch); process 1: synchronize_rng_states(generator)");
    expect([&] { accelerator.pad_across_processes(x, {.pad_index = first ? 0.0 : -1.0}); }, "pad_across_processes",
           "pad_index 0, behind); process 1: pad_across_processes(dim 0, pad_index -1, behind)");
  });
}

TEST(DebugTrigger, IsCheckedByEveryProcess) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.debug = true}));
    const bool first = accelerator.is_main_process();
    EXPECT_THAT([&] { first ? accelerator.wait_for_everyone() : static_cast<void>(accelerator.check_trigger()); },
                ThrowsError<CommError>({.place = first ? "wait_for_everyone" : "check_trigger",
                                        .what = "different verbs",
                                        .got = "process 1: check_trigger(",
                                        .expected = "the same collectives in the same order",
                                        .remedy = "is_main_process()"}));
    accelerator.set_trigger();
    EXPECT_TRUE(accelerator.check_trigger());
  });
}

TEST_P(Debug, NumberAndDtypeOfPaddedTensorsAreCompared) {
  on_ranks([](const Accelerator& accelerator) {
    const bool first = accelerator.is_main_process();
    const std::vector<at::Tensor> tensors(first ? 1 : 2, torch::ones({1}));
    EXPECT_THAT([&] { accelerator.pad_across_processes(tensors); },
                ThrowsError<CommError>({.place = "pad_across_processes",
                                        .what = "different shapes or dtypes",
                                        .got = "process 0: [1] Float; process 1: [1] Float, [1] Float",
                                        .expected = "same",
                                        .remedy = ""}));
    EXPECT_THAT([&] { accelerator.pad_across_processes(torch::ones({1}, first ? at::kFloat : at::kLong)); },
                ThrowsError<CommError>({.place = "pad_across_processes",
                                        .what = "different shapes or dtypes",
                                        .got = "process 0: [1] Float; process 1: [1] Long",
                                        .expected = "same",
                                        .remedy = ""}));
    const at::Tensor padded = accelerator.pad_across_processes(torch::ones({accelerator.process_index() + 1}));
    EXPECT_EQ(padded.size(0), accelerator.num_processes()) << "other lengths are what it is for";
  });
}

TEST(DebugOption, GoesBeforeTheVariable) {
  const accelerate::EnvironmentScope scope = accelerate::patch_environment({{"accelerate_debug_mode", "1"}});
  EXPECT_EQ(Accelerator().plan().at("debug").value, "true");
  EXPECT_EQ(Accelerator().plan().at("debug").source, "environment ACCELERATE_DEBUG_MODE");
  EXPECT_EQ(Accelerator({.debug = false}).plan().at("debug").value, "false");
  EXPECT_EQ(Accelerator({.debug = false}).plan().at("debug").source, "argument");
}

}  // namespace
