// What ranks find out about each other through the store, and what that does to their operations.
#include "accelerate/comm/liveness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include <future>
#include <memory>
#include <stdexcept>

namespace accelerate::internal {
namespace {

using namespace std::chrono_literals;
using ::testing::MatchesRegex;
using ::testing::StartsWith;
using Future = c10::ivalue::Future;
using Store = c10::intrusive_ptr<c10d::Store>;

// Short, and yet long beside what a busy machine makes a thread wait.
constexpr LivenessRules kRules{.interval = 10ms, .silence = 2s, .stuck = 50ms, .slow = 60s};
/// Of ranks that are not there at all.
constexpr LivenessRules kHasty{.interval = 5ms, .silence = 50ms, .stuck = 20ms, .slow = 60s};

std::unique_ptr<Liveness> rank(int index, int size, Store store, LivenessRules rules = kRules, LogSink sink = {}) {
  return std::make_unique<Liveness>(
      std::move(store),
      Liveness::Place{.rank = index, .size = size, .serves_store = index == 0, .store_server = "Rank 0"},
      Log(
          sink ? std::move(sink) : [](LogLevel, std::string_view) {}, index),
      rules);
}

struct Waiting {
  uint64_t id = 0;
  c10::intrusive_ptr<Future> future;
};

Waiting begin(Liveness& liveness, const char* name) {
  Waiting waiting{liveness.operations().begin(name, true), c10::make_intrusive<Future>(c10::NoneType::get())};
  liveness.operations().update(waiting.id, [&](Operation& operation) { operation.future = waiting.future; });
  return waiting;
}

std::string error_of(const Waiting& waiting) {
  waiting.future->wait();
  if (!waiting.future->hasError()) return "no error";
  try {
    std::rethrow_exception(waiting.future->exception_ptr());
  } catch (const CommError& error) {
    return error.what();
  }
}

/// A store whose server goes away.
class BreakingStore final : public c10d::HashStore {
 public:
  int64_t add(const std::string& key, int64_t value) override {
    if (broken) throw std::runtime_error("Connection was closed\nframe #0");
    return HashStore::add(key, value);
  }
  std::atomic<bool> broken = false;
};

TEST(Liveness, ARankWithoutASignOfLifeIsLostToEverybody) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 4, store, kHasty), second = rank(1, 4, store, kHasty);
  std::promise<void> told;
  second->on_lost([&] { told.set_value(); });
  const auto waiting = begin(*first, "all_gather");
  EXPECT_THAT(error_of(waiting), MatchesRegex("\\[all_gather\\] Rank [23] is lost: no sign of life for [0-9.]+ s: got "
                                              "rank 0 waiting for [0-9.]+ s, expected all 4 ranks to come\\. Look .*"));
  EXPECT_THAT(second->find_lost().value_or(""), MatchesRegex("Rank [23] is lost: .*"));
  told.get_future().wait();
  EXPECT_TRUE(first->gave_up());
}

// Who serves the store has told why it ends before it takes the store away.
TEST(Liveness, TheServerOfTheStoreStaysUntilTheOthersHaveHeard) {
  constexpr LivenessRules kRare{.interval = 100ms, .silence = 500ms, .stuck = 20ms, .slow = 60s};
  const auto store = c10::make_intrusive<BreakingStore>();
  const auto third = rank(2, 3, store, kRare);
  {
    const auto first = rank(0, 3, store, kRare);
    EXPECT_THAT(first->find_lost().value_or(""), StartsWith("Rank 1 is lost: no sign of life for "));
  }
  store->broken = true;
  EXPECT_THAT(third->find_lost().value_or(""), StartsWith("Rank 1 is lost: no sign of life for "));
}

TEST(Liveness, RanksThatBeatAreNotLost) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 2, store), second = rank(1, 2, store);
  EXPECT_EQ(first->find_lost(), std::nullopt);
  EXPECT_EQ(second->lost(), std::nullopt);
  EXPECT_FALSE(first->gave_up());
}

TEST(Liveness, ARankThatLeftFailsOnlyWhatStillWaitsForIt) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 2, store);
  auto second = rank(1, 2, store);
  second->leave("it had enough");
  EXPECT_EQ(first->find_lost(), std::nullopt) << "nobody waits for it";
  EXPECT_THAT(error_of(begin(*first, "barrier")), StartsWith("[barrier] Rank 1 has left: it had enough: got rank 0 "));
}

// Who throws is followed by those that it keeps from going on: theirs are not the cause.
TEST(Liveness, TheFirstToLeaveIsNamedWhoeverFollows) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 4, store), second = rank(1, 4, store), third = rank(2, 4, store);
  third->leave("an exception");
  ASSERT_TRUE(third->linger());
  first->leave("for that reason");
  first->linger();
  const auto late = rank(3, 4, store);
  EXPECT_THAT(error_of(begin(*late, "barrier")), StartsWith("[barrier] Rank 2 has left: an exception: got rank 3 "));
}

// However long the others waited for it: it was through with the operation, and they are about to be.
TEST(Liveness, WhatTheLastRankToComeLeavesBehindHasTimeToEnd) {
  constexpr LivenessRules kPatient{.interval = 10ms, .silence = 5s, .stuck = 500ms, .slow = 60s};
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 2, store, kPatient);
  auto second = rank(1, 2, store, kPatient);
  const auto waiting = begin(*first, "barrier");
  first->operations().update(waiting.id, [](Operation& operation) { operation.start -= 1h; });
  const auto before = Clock::now();
  second.reset();
  EXPECT_THAT(error_of(waiting), StartsWith("[barrier] Rank 1 has left: "));
  EXPECT_GE(Clock::now() - before, kPatient.stuck);
}

TEST(Liveness, ARankThatEndsSaysGoodbye) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 2, store);
  rank(1, 2, store).reset();
  EXPECT_THAT(error_of(begin(*first, "barrier")), StartsWith("[barrier] Rank 1 has left: its program let go of the"));
}

TEST(Liveness, WhoComesAfterALeftRankIsWatchedInItsPlace) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 3, store, kHasty);
  rank(1, 3, store, kHasty).reset();
  EXPECT_THAT(first->find_lost().value_or(""), StartsWith("Rank 2 is lost: no sign of life for "));
}

TEST(Liveness, RanksInDifferentOperationsAreToldWhatEachCalls) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 3, store), second = rank(1, 3, store), third = rank(2, 3, store);
  // One operation of all ranks is behind them; those of parts of the ranks do not count.
  for (Liveness* one : {first.get(), second.get(), third.get()}) {
    one->operations().take(one->operations().begin("broadcast", true));
  }
  first->operations().take(first->operations().begin("all_reduce", false));
  const auto a = begin(*first, "all_gather"), b = begin(*second, "all_reduce"), c = begin(*third, "all_gather");
  const char* said =
      "The ranks call different things, rank 0 all_gather, rank 1 all_reduce, rank 2 all_gather (number "
      "2 of each): got rank ";
  EXPECT_THAT(error_of(a), StartsWith(std::string("[all_gather] ") + said + "0 "));
  EXPECT_THAT(error_of(b), StartsWith(std::string("[all_reduce] ") + said + "1 "));
  EXPECT_THAT(error_of(c), StartsWith(std::string("[all_gather] ") + said + "2 "));
}

TEST(Liveness, RanksInTheSameOperationAreLeftAlone) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 2, store), second = rank(1, 2, store);
  const auto a = begin(*first, "all_gather"), b = begin(*second, "all_gather");
  EXPECT_EQ(first->find_lost(), std::nullopt);
  EXPECT_FALSE(a.future->completed());
  EXPECT_FALSE(b.future->completed());
}

TEST(Liveness, ATimeoutNamesWhoDidNotCome) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  const auto first = rank(0, 3, store), second = rank(1, 3, store), third = rank(2, 3, store);
  const auto a = begin(*first, "all_reduce"), c = begin(*third, "all_reduce");
  first->operations().update(a.id, [](Operation& operation) {
    operation.failure = "The transport failed: Timed out";
    operation.failed_at = Clock::now();
    operation.timed_out = true;
  });
  EXPECT_THAT(error_of(a),
              MatchesRegex("\\[all_reduce\\] Ranks? 1.* did not come to all_reduce within the timeout: .*"));
  EXPECT_THAT(error_of(c),
              MatchesRegex("\\[all_reduce\\] Ranks? 1.* did not come to all_reduce within the timeout: .*"));
}

TEST(Liveness, ASlowRankIsNamedInOneLine) {
  const Store store = c10::make_intrusive<c10d::HashStore>();
  std::mutex mutex;
  std::vector<std::string> said;
  std::promise<void> logged;
  LivenessRules rules = kRules;
  rules.slow = 30ms;
  {
    const auto second = rank(1, 2, store);
    const auto first = rank(0, 2, store, rules, [&](LogLevel, std::string_view line) {
      const std::lock_guard lock(mutex);
      said.emplace_back(line);
      if (said.size() == 1) logged.set_value();
    });
    const auto waiting = begin(*first, "barrier");
    logged.get_future().wait();
    EXPECT_EQ(first->find_lost(), std::nullopt) << "slow is not lost";
    first->operations().take(waiting.id);
  }
  ASSERT_EQ(said.size(), 1U);
  EXPECT_THAT(said[0], MatchesRegex(".*waiting for [0-9.]+ s in barrier; not there yet: rank 1"));
}

TEST(Liveness, AStoreThatBreaksOffTakesItsServerForLost) {
  const auto store = c10::make_intrusive<BreakingStore>();
  const auto second = rank(1, 2, store);
  const auto waiting = begin(*second, "all_gather");
  store->broken = true;
  EXPECT_THAT(error_of(waiting),
              StartsWith("[all_gather] Rank 0 is lost: the store it serves broke off (Connection was closed): got "));
}

}  // namespace
}  // namespace accelerate::internal
