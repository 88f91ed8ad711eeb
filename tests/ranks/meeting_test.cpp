// Ranks that register in a store, and what each is told when one does not.
#include "accelerate/comm/meeting.h"

#include <gtest/gtest.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/support/throws_error.h"

namespace accelerate::internal {
namespace {

using namespace std::chrono_literals;
using support::ThrowsError;

constexpr auto kPatience = std::chrono::milliseconds(60'000);

World world_of(int64_t rank, int64_t size) {
  return {.rank = rank, .size = size, .local_rank = rank, .local_size = size};
}

Log silence() {
  return Log([](LogLevel, std::string_view) {}, 0);
}

TEST(Meeting, EveryRankComesBackWithKeysOfItsOwnRun) {
  for (int64_t size : {1, 2, 5}) {
    const auto store = c10::make_intrusive<c10d::HashStore>();
    std::atomic<int> good = 0;
    std::vector<std::thread> threads;
    for (int64_t rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        // Two Accelerators of one process, one after the other.
        const Meeting first = meet(world_of(rank, size), store, kPatience, silence());
        const Meeting second = meet(world_of(rank, size), store, kPatience, silence());
        first.store->set("key/" + std::to_string(rank), "first");
        good += !second.store->check({"key/" + std::to_string(rank)});
        good += first.store->get_to_str("key/" + std::to_string((rank + 1) % size)) == "first";
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(good, 2 * size);
  }
}

TEST(Meeting, NamesTheRanksThatAreMissing) {
  EXPECT_THAT([] { meet(world_of(1, 4), c10::make_intrusive<c10d::HashStore>(), 20ms, silence()); },
              ThrowsError<CommError>({.place = "rendezvous",
                                      .what = "Not every rank came",
                                      .got = "rank 0, 2, 3 missing after 0 s",
                                      .expected = "4 ranks",
                                      .remedy = ".rendezvous_timeout"}));
}

TEST(Meeting, NamesRanksThatCountOnAnotherNumber) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::thread other([&] {
    EXPECT_THAT([&] { meet(world_of(0, 2), store, kPatience, silence()); },
                ThrowsError<CommError>({.place = "rendezvous",
                                        .what = "different numbers of processes",
                                        .got = "WORLD_SIZE=2 on rank 0, 3 on rank 1",
                                        .expected = "the same on every rank",
                                        .remedy = "one launch"}));
  });
  EXPECT_THAT([&] { meet(world_of(1, 3), store, kPatience, silence()); },
              ThrowsError<CommError>({.place = "rendezvous",
                                      .what = "different numbers of processes",
                                      .got = "WORLD_SIZE=3 on rank 1, 2 on rank 0",
                                      .expected = "the same on every rank",
                                      .remedy = "one launch"}));
  other.join();
}

TEST(Meeting, NamesBothProcessesOfOneRank) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  c10d::PrefixStore("accelerate", store).set("owner/1", "elsewhere, process 7");
  EXPECT_THAT([&] { meet(world_of(1, 2), store, kPatience, silence()); },
              ThrowsError<CommError>({.place = "rendezvous",
                                      .what = "Two processes say that they are rank 1",
                                      .got = "RANK=1 in elsewhere, process 7 and in ",
                                      .expected = "every rank from 0 to 1 once",
                                      .remedy = "give each its own RANK"}));
}

/// A store whose server goes away after some calls.
class BreakingStore final : public c10d::HashStore {
 public:
  explicit BreakingStore(int calls) : calls_(calls) {}
  bool check(const std::vector<std::string>& keys) override {
    if (calls_-- == 0) throw std::runtime_error("Connection was closed\nframe #0");
    return HashStore::check(keys);
  }

 private:
  int calls_;
};

TEST(Meeting, AStoreThatBreaksOffIsAnErrorOfOneLine) {
  for (const int calls : {0, 1, 5}) {
    try {
      meet(world_of(0, 2), c10::make_intrusive<BreakingStore>(calls), kPatience, silence());
      ADD_FAILURE() << "no error";
    } catch (const CommError& error) {
      EXPECT_EQ(error.text().what, "The host program is lost: the store where the ranks meet broke off");
      EXPECT_EQ(error.text().got, "Connection was closed on rank 0");
    }
  }
}

}  // namespace
}  // namespace accelerate::internal
