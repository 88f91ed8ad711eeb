// How ranks come to share memory: all or none, and nothing stays behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "accelerate/comm/backends/shm/peers.h"
#include "accelerate/comm/backends/shm/segment.h"
#include "accelerate/core/error.h"
#include "tests/ranks/shm_ranks.h"

namespace accelerate::ranks_test {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::set<std::string> names_in(const char* folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}
size_t descriptors() { return names_in("/proc/self/fd").size(); }
/// A group that lost a rank keeps its own: tests compare with what was there before.
size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("memfd:accelerate") != std::string::npos;
  return count;
}

internal::BackendContext context_of(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size) {
  return {.store = store,
          .rank = rank,
          .size = size,
          .timeout = std::chrono::seconds(20),
          .device = c10::Device(c10::kCPU),
          .group = "test"};
}

void put(const c10::intrusive_ptr<c10d::Store>& store, const std::string& key, const std::string& value) {
  store->set(key, std::vector<uint8_t>(value.begin(), value.end()));
}

TEST(ShmSetup, AClosedGroupLeavesNoDescriptorMappingOrFile) {
  const auto files = names_in("/dev/shm");
  const size_t before = descriptors(), mapped = mappings();
  size_t during = 0;
  run_threads(3, [&](c10d::Backend& backend, int rank) {
    backend.barrier()->wait();
    if (rank == 0) during = mappings();
    backend.barrier()->wait();
    return std::string();
  });
  EXPECT_EQ(during, mapped + 3);  // otherwise the next line proves nothing
  EXPECT_EQ(mappings(), mapped);
  EXPECT_EQ(descriptors(), before);
  EXPECT_EQ(names_in("/dev/shm"), files);
}

TEST(ShmSetup, KilledRanksLeaveNothing) {
  const auto files = names_in("/dev/shm"), temporary = names_in("/tmp");
  const auto ended = run_processes(3, [](c10d::Backend& backend, int) -> std::string {
    backend.barrier()->wait();
    ::raise(SIGKILL);
    return {};
  });
  for (const Ended& rank : ended) EXPECT_EQ(rank.signal, SIGKILL);
  EXPECT_EQ(names_in("/dev/shm"), files);
}

// A rank that cannot open what rank 0 offers is a refusal with the same text on every rank; all its kinds meet here:
// the offered process does not exist, or its descriptor is another file, as in another process namespace.
TEST(ShmSetup, ARankThatCannotSeeTheMemoryMakesAllRefuse) {
  const size_t before = descriptors(), mapped = mappings();
  const auto store = c10::make_intrusive<c10d::HashStore>();
  put(store, "rank1", "no cannot see /proc/7/fd/5: No such file or directory");
  std::vector<std::string> refusals(3);
  std::thread last([&] { refusals[2] = shm_entry().make(context_of(store, 2, 3)).refusal; });
  refusals[0] = shm_entry().make(context_of(store, 0, 3)).refusal;
  last.join();
  EXPECT_EQ(refusals[0], "rank 1: cannot see /proc/7/fd/5: No such file or directory");
  EXPECT_EQ(refusals[2], refusals[0]);
  EXPECT_EQ(descriptors(), before);
  EXPECT_EQ(mappings(), mapped);
}

TEST(ShmSetup, RankZeroWithoutMemoryMakesAllRefuse) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1 << 20, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto texts = run_threads(3, [](c10d::Backend&, int) { return std::string("made"); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(texts, Each(StartsWith("refused: rank 0: files may not have the ")));
  EXPECT_THAT(texts, Each(HasSubstr("(ulimit -f)")));
}

TEST(ShmSetup, ARankThatNeverComesIsNamed) {
  const size_t mapped = mappings();
  auto context = context_of(c10::make_intrusive<c10d::HashStore>(), 0, 2);
  context.timeout = std::chrono::milliseconds(100);
  try {
    shm_entry().make(context);
    ADD_FAILURE() << "rank 1 is not there";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), StartsWith("[shm] Rank 1 did not come: got rank 0 waiting for "));
    EXPECT_THAT(error.what(), HasSubstr("while group `test` connects, expected all 2 ranks within 100 ms"));
  }
  EXPECT_EQ(mappings(), mapped);
}

TEST(ShmSetup, ARankThatIsLostMeanwhileIsNamed) {
  auto context = context_of(c10::make_intrusive<c10d::HashStore>(), 0, 2);
  context.lost = []() -> std::optional<std::string> { return "Rank 1 is lost"; };
  try {
    shm_entry().make(context);
    ADD_FAILURE() << "rank 1 is not there";
  } catch (const CommError& error) {
    EXPECT_THAT(error.what(), StartsWith("[shm] Rank 1 is lost: got rank 0 waiting for "));
  }
}

std::string problem_with(const internal::shm::Segment::Address& address) {
  try {
    internal::shm::Segment::open(address);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "opened";
}

TEST(ShmSegment, IsOpenedOnlyAsWhatWasAnnounced) {
  using internal::shm::Segment;
  const Segment segment = Segment::create(2);
  const Segment::Address address = segment.address();
  EXPECT_EQ(problem_with(address), "opened");

  auto other = address;
  other.nonce = "0123";
  EXPECT_THAT(problem_with(other), HasSubstr("is another file here (another host or process namespace)"));
  other = address;
  other.descriptor = 0;  // whatever standard input is
  EXPECT_THAT(problem_with(other), HasSubstr("is another file here"));
  other = address;
  other.descriptor = 9999;
  EXPECT_THAT(problem_with(other), StartsWith("cannot see /proc/"));
  other = address;
  other.ranks = 3;
  EXPECT_THAT(problem_with(other), HasSubstr("has not the size that was announced"));
}

TEST(ShmSegment, AnAddressSurvivesTheStore) {
  using internal::shm::Segment;
  const Segment segment = Segment::create(5);
  const auto parsed = Segment::Address::parse(segment.address().text());
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->text(), segment.address().text());
  EXPECT_FALSE(Segment::Address::parse("12 x"));
}

TEST(ShmSegment, ManyRanksGetSmallerBuffers) {
  using internal::shm::Segment;
  EXPECT_EQ(Segment::create(2).buffer_bytes(), 512 << 10);
  const Segment many = Segment::create(1000);
  EXPECT_EQ(many.buffer_bytes(), 64 << 10);
  EXPECT_GE(many.buffer_bytes() / 1000, 64);  // a cache line for each rank
}

TEST(ShmPeers, AProcessHasEndedOnceItIsAZombie) {
  ASSERT_TRUE(internal::shm::Peers::supported());
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char byte = 0;
    ::close(ends[1]);
    [[maybe_unused]] const auto closed = ::read(ends[0], &byte, 1);
    ::_exit(0);
  }
  const internal::shm::Peers peers({::getpid(), child});
  EXPECT_FALSE(peers.ended(0));
  EXPECT_FALSE(peers.ended(1));
  ::close(ends[0]);
  ::close(ends[1]);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, child, &info, WEXITED | WNOWAIT), 0);  // still a zombie afterwards
  EXPECT_FALSE(peers.ended(0));
  EXPECT_TRUE(peers.ended(1));
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(internal::shm::Peers({child}).ended(0));  // nobody there any more
}

}  // namespace
}  // namespace accelerate::ranks_test
