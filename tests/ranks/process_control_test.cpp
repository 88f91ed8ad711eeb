// Which process does what: selected functions, who goes first, shares, triggers and bars, at 1, 2 and 4 ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <mutex>
#include <sstream>
#include <thread>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::CommError;
using accelerate::ConfigError;
using accelerate::UsageError;
using accelerate::support::same_bytes;
using accelerate::support::ThrowsError;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;

class Ranks : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(OneTwoFour, Ranks, testing::Values(1, 2, 4));

/// Two hosts of two processes each, for what asks about places only.
accelerate::AcceleratorOptions on_two_hosts(const Rank& rank) {
  accelerate::AcceleratorOptions options = rank.options({.init_process_group = {.backend = "gloo"}});
  options.world =
      accelerate::World{.rank = rank.rank(), .size = rank.size(), .local_rank = rank.rank() % 2, .local_size = 2};
  return options;
}

TEST_P(Ranks, FunctionsRunOnTheProcessThatWasSelected) {
  const int64_t ranks = GetParam();
  run_ranks(ranks, [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const auto self = [&](int64_t plus) { return accelerator.process_index() + plus; };
    const auto here = [&](bool selected) { return selected ? rank.rank() + 100 : 0; };
    EXPECT_EQ(accelerator.on_main_process(self)(100), here(rank.rank() == 0));
    EXPECT_EQ(accelerator.on_local_main_process(self)(100), here(rank.rank() == 0));
    EXPECT_EQ(accelerator.on_last_process(self)(100), here(rank.rank() == ranks - 1));
    for (int64_t i = 0; i < ranks; ++i) {
      EXPECT_EQ(accelerator.on_process(i, self)(100), here(rank.rank() == i));
      EXPECT_EQ(accelerator.on_local_process(i, self)(100), here(rank.rank() == i));
    }
  });
}

TEST(ProcessControl, LocalOnesRunOncePerHost) {
  std::atomic<int> mains{0}, seconds{0};
  run_ranks(4, [&](const Rank& rank) {
    const Accelerator accelerator(on_two_hosts(rank));
    accelerator.on_local_main_process([&] { ++mains; })();
    accelerator.on_local_process(1, [&] { ++seconds; })();
    accelerator.on_local_process(3, [] { ADD_FAILURE() << "no host here has a fourth process"; })();
    EXPECT_EQ(accelerator.should_save_model(), rank.rank() % 2 == 0);
    EXPECT_EQ(accelerator.is_main_process(), rank.rank() == 0);
    EXPECT_EQ(accelerator.is_last_process(), rank.rank() == 3);
  });
  EXPECT_EQ(mains, 2);
  EXPECT_EQ(seconds, 2);
}

TEST(ProcessControl, AnIndexOutsideTheWorldIsAnError) {
  run_ranks(2, [](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const auto refuses = [](const std::string& verb, const std::string& got) {
      return ThrowsError<UsageError>(
          {.place = verb, .what = "no such process", .got = got, .expected = "0 to 1", .remedy = "that exists"});
    };
    EXPECT_THAT([&] { accelerator.on_process(2, [] {}); }, refuses("on_process", "2"));
    EXPECT_THAT([&] { accelerator.on_process(-1, [] {}); }, refuses("on_process", "-1"));
    EXPECT_THAT([&] { accelerator.on_local_process(2, [] {}); }, refuses("on_local_process", "2"));
  });
}

TEST_P(Ranks, StateOfTheProcess) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    using accelerate::DistributedType;
    EXPECT_EQ(accelerator.distributed_type(), rank.size() > 1 ? DistributedType::kMultiCpu : DistributedType::kNo);
    EXPECT_EQ(accelerator.use_distributed(), rank.size() > 1);
    EXPECT_FALSE(accelerator.multi_device());
    EXPECT_EQ(accelerator.num_processes(), rank.size());
    EXPECT_EQ(accelerator.process_index(), rank.rank());
    if (rank.size() > 1) {
      EXPECT_THAT(accelerator.state().text(), testing::StartsWith("Distributed environment: DistributedType.MULTI_CPU"
                                                                  "  Backend: " +
                                                                  accelerator.state().backend + "\n"));
      EXPECT_THAT(accelerator.state().backend, testing::HasSubstr("cpu:"));
    }
  });
}

template <class First>
std::string lines_in_order(int64_t ranks, First&& first) {
  std::mutex mutex;
  std::string lines;
  run_ranks(ranks, [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    auto order = first(accelerator);
    if (rank.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const std::lock_guard lock(mutex);
    lines += rank.rank() == 0 ? "m" : "o";
  });
  return lines;
}

TEST_P(Ranks, TheMainProcessGoesFirst) {
  const std::string expected = "m" + std::string(static_cast<size_t>(GetParam() - 1), 'o');
  EXPECT_EQ(lines_in_order(GetParam(), [](const Accelerator& a) { return a.main_process_first(); }), expected);
  EXPECT_EQ(lines_in_order(GetParam(), [](const Accelerator& a) { return a.local_main_process_first(); }), expected);
}

TEST(ProcessOrder, EveryHostsMainProcessGoesFirst) {
  std::mutex mutex;
  std::string lines;
  run_ranks(4, [&](const Rank& rank) {
    const Accelerator accelerator(on_two_hosts(rank));
    auto order = accelerator.local_main_process_first();
    if (rank.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const std::lock_guard lock(mutex);
    lines += rank.rank() % 2 == 0 ? "m" : "o";
  });
  EXPECT_EQ(lines, "mmoo");
}

TEST(ProcessOrder, EndedEarlyTheOthersGoOnAndItEndsOnce) {
  std::atomic<bool> ended{false};
  run_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto order = accelerator.main_process_first();
    if (rank.rank() == 0) ended = true;
    EXPECT_TRUE(ended);
    order.finish();
    accelerator.wait_for_everyone();
    auto moved = std::move(order);
    moved.finish();
  });
}

TEST_P(Ranks, AnErrorOnTheMainProcessIsAnErrorForTheOthersAndAllGoOn) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const auto body = [&] {
      auto order = accelerator.main_process_first();
      if (rank.rank() == 0) throw std::logic_error("no such file");
      ADD_FAILURE() << "the others' body must not run";
    };
    if (rank.rank() == 0) {
      EXPECT_THROW(body(), std::logic_error);
    } else {
      EXPECT_THAT(body, ThrowsError<CommError>({.place = "main_process_first",
                                                .what = "A process that went first has failed",
                                                .got = "main_process_first() on process 0",
                                                .expected = "without one",
                                                .remedy = "that process's error"}));
    }
    const at::Tensor all = accelerator.gather(torch::full({1}, rank.rank()));
    EXPECT_EQ(all.numel(), rank.size()) << "nobody waits";
  });
}

TEST(ProcessOrder, AnErrorThatIsCaughtInsideIsNone) {
  run_ranks(2, [](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    // Also while another exception is on its way: only one that leaves the block counts.
    const auto during_another = [&] {
      struct Runs {
        const Accelerator& accelerator;
        ~Runs() {
          try {
            auto order = accelerator.main_process_first();
          } catch (const std::exception& error) {
            ADD_FAILURE() << error.what();
          }
        }
      } runs{accelerator};
      throw std::logic_error("outside");
    };
    EXPECT_THROW(during_another(), std::logic_error);
    auto order = accelerator.main_process_first();
    try {
      throw std::runtime_error("inside");
    } catch (const std::runtime_error&) {
      EXPECT_TRUE(accelerator.use_distributed());
    }
  });
}

TEST(ProcessOrder, AnErrorOnAnotherProcessStaysThere) {
  run_ranks(2, [](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const auto body = [&] {
      auto order = accelerator.main_process_first();
      if (rank.rank() == 1) throw std::logic_error("mine");
    };
    if (rank.rank() == 1) {
      EXPECT_THROW(body(), std::logic_error);
    } else {
      EXPECT_NO_THROW(body());
    }
    accelerator.wait_for_everyone();
  });
}

TEST(ProcessOrder, ALostMainProcessEndsTheWait) {
  run_ranks(2, [](const Rank& rank) {
    auto accelerator = std::make_optional<Accelerator>(rank.options());
    if (rank.rank() == 0) {
      accelerator.reset();  // leaves without having gone first
    } else {
      EXPECT_THROW((void)accelerator->main_process_first(), CommError);
    }
  });
}

TEST(ProcessOrder, WhenTheOthersAreLostTheGuardLogsAndDoesNotThrow) {
  std::mutex mutex;
  std::vector<std::string> lines;
  run_ranks(2, [&](const Rank& rank) {
    auto accelerator =
        std::make_optional<Accelerator>(rank.options({.log_sink = [&](accelerate::LogLevel, std::string_view line) {
          const std::lock_guard lock(mutex);
          lines.emplace_back(line);
        }}));
    if (rank.rank() == 1) {
      accelerator.reset();
    } else {
      auto order = accelerator->main_process_first();
    }
  });
  const std::lock_guard lock(mutex);
  EXPECT_THAT(lines, testing::Contains(testing::AllOf(testing::StartsWith("[rank 0] "), testing::HasSubstr("rank 1"))));
}

TEST_P(Ranks, SharesGatheredAreTheInput) {
  const int64_t ranks = GetParam();
  run_ranks(ranks, [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    for (const int64_t n : {2 * ranks, 2 * ranks - 1}) {
      std::vector<std::string> names;
      for (int64_t i = 0; i < n; ++i) names.push_back(std::to_string(i));
      EXPECT_EQ(accelerator.gather_object(accelerator.split_between_processes(names)), names);
      const auto padded = accelerator.split_between_processes(names, {.apply_padding = true});
      EXPECT_EQ(static_cast<int64_t>(padded.size()), (n + ranks - 1) / ranks);
      auto gathered = accelerator.gather_object(padded);
      gathered.resize(static_cast<size_t>(n));
      EXPECT_EQ(gathered, names);

      const at::Tensor column = torch::arange(n).view({n, 1});
      const at::Tensor rows = accelerator.split_between_processes(column, {.apply_padding = true});
      EXPECT_EQ(rows.size(0), (n + ranks - 1) / ranks);
      EXPECT_TRUE(same_bytes(accelerator.gather(rows).narrow(0, 0, n), column));

      auto data = accelerator.split_between_processes(accelerate::TensorDataset(column));
      EXPECT_EQ(data.size(), accelerator.split_between_processes(names).size());
    }
    std::vector<int> seventeen(17);
    EXPECT_EQ(static_cast<int64_t>(accelerator.split_between_processes(seventeen).size()),
              17 / ranks + (rank.rank() < 17 % ranks ? 1 : 0));
  });
}

struct Records {
  std::vector<int> list;
  std::vector<std::string> letters;
  at::Tensor tensor;
};

TEST_P(Ranks, MappingsAndStructsOfLists) {
  const Records records{.list = {1, 2, 3, 4, 5, 6, 7, 8},
                        .letters = {"a", "b", "c", "d", "e", "f", "g", "h"},
                        .tensor = torch::arange(1, 9)};
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const Records own = accelerator.split_between_processes(records);
    const int64_t each = 8 / rank.size();
    const auto begin = records.list.begin() + rank.rank() * each;
    EXPECT_EQ(own.list, std::vector<int>(begin, begin + each));
    EXPECT_EQ(static_cast<int64_t>(own.letters.size()), each);
    EXPECT_EQ(own.letters.front(), records.letters[static_cast<size_t>(rank.rank() * each)]);
    EXPECT_TRUE(same_bytes(own.tensor, records.tensor.narrow(0, rank.rank() * each, each)));
    const std::map<std::string, std::vector<int>> map{{"numbers", records.list}};
    EXPECT_EQ(accelerator.split_between_processes(map).at("numbers"), own.list);
  });
}

TEST_P(Ranks, ATriggerOfOneProcessIsFoundByAllOnce) {
  for (int64_t setter = 0; setter < GetParam(); ++setter) {
    run_ranks(GetParam(), [&](const Rank& rank) {
      Accelerator accelerator(rank.options());
      EXPECT_FALSE(accelerator.check_trigger());
      if (rank.rank() == setter) accelerator.set_trigger();
      EXPECT_TRUE(accelerator.check_trigger());
      EXPECT_FALSE(accelerator.check_trigger());
      accelerator.set_trigger();
      EXPECT_TRUE(accelerator.check_trigger());
      EXPECT_FALSE(accelerator.check_trigger());
    });
  }
}

TEST_P(Ranks, TheBarIsTheMainProcesssUnlessAllAreAskedFor) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    std::ostringstream one, all, none;
    int64_t steps = 0;
    for ([[maybe_unused]] const int i : accelerator.tqdm(std::vector<int>(3), one)) ++steps;
    for ([[maybe_unused]] const int i : accelerator.tqdm(std::vector<int>(3), all, {.main_process_only = false}))
      ++steps;
    for ([[maybe_unused]] const int i : accelerator.tqdm(std::vector<int>(3), none, {.disable = true})) ++steps;
    EXPECT_EQ(steps, 9);
    EXPECT_EQ(one.str().empty(), rank.rank() != 0);
    EXPECT_THAT(all.str(), testing::HasSubstr("3/3"));
    EXPECT_EQ(none.str(), "");
  });
}

TEST(ProcessControl, ProcessesWithOtherRandomnessSettingsAreRefused) {
  run_ranks(2, [](const Rank& rank) {
    const auto make = [&] {
      Accelerator(
          rank.options({.rng_types = rank.rank() == 0 ? accelerate::RngTypes{"torch"} : accelerate::RngTypes{}}));
    };
    EXPECT_THAT(make,
                ThrowsError<ConfigError>({.place = "Accelerator",
                                          .what = "not set up alike",
                                          .got = "rng_types torch (argument) on rank 0, generator (default) on rank 1",
                                          .expected = "the same",
                                          .remedy = "the same options"}));
  });
}

}  // namespace
