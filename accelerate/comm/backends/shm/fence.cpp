#include "accelerate/comm/backends/shm/fence.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <utility>

namespace accelerate::internal::shm {
namespace {

constexpr int kLoads = 200;           // no PAUSE between them: on virtual machines it may cost a trip to the host
constexpr long kLookNs = 50'000'000;  // a sleeper looks around this often

// A rank that comes late wakes sleepers, which takes some 50 us on virtual machines: where each rank has a core, waits
// of a millisecond are better spent yielding. Where they have to share, the core is somebody else's.
int yields_for(int ranks) {
  cpu_set_t mine;
  const int cores = ::sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : 1;
  return ranks <= cores ? 4000 : 200;
}

long futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
  return ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

std::string list(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "Rank " : "Ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  return text;
}

}  // namespace

Fence::Fence(Segment& segment, int rank, Peers peers, std::string group,
             std::function<std::optional<std::string>()> lost)
    : segment_(segment),
      rank_(rank),
      size_(segment.ranks()),
      yields_(yields_for(segment.ranks())),
      process_(::getpid()),
      peers_(std::move(peers)),
      group_(std::move(group)),
      lost_(std::move(lost)) {}

void Fence::begin(const Call& call, std::chrono::milliseconds timeout) {
  if (broken_) throw CommError(*broken_);
  if (closed_) {
    throw UsageError({.place = name_of(call.operation),
                      .what = "The group is closed",
                      .got = describe(call) + " after shutdown()",
                      .expected = "no call any more",
                      .remedy = "Close the group at the end"});
  }
  call_ = call;
  timeout_ = timeout;
  compared_ = false;
  ++calls_;
  segment_.post(rank_).calls[calls_ % 2] = call;
  waiting_since_ = {};
  if (aborted_.load(std::memory_order_relaxed)) fail_aborted();
}

void Fence::arrive() noexcept {
  Post& post = segment_.post(rank_);
  // Against a sleeper that counts itself and then looks at `arrived` once more: both orders have to be total.
  post.arrived.store(++arrived_, std::memory_order_seq_cst);
  if (post.sleepers.load(std::memory_order_seq_cst) != 0) futex(post.arrived, FUTEX_WAKE, INT_MAX, nullptr);
}

bool Fence::behind(int rank) noexcept {
  const uint32_t arrived = segment_.post(rank).arrived.load(std::memory_order_acquire);
  return static_cast<int32_t>(arrived - arrived_) < 0;
}

void Fence::wait() {
  for (int distance = 1; distance < size_; ++distance) {
    const int rank = (rank_ + distance) % size_;
    if (behind(rank)) wait_for(rank);
  }
  if (!compared_) compare_calls();
}

void Fence::wait_for(int rank) {
  for (int i = 0; i < kLoads; ++i) {
    if (!behind(rank)) return;
  }
  for (int i = 0; i < yields_; ++i) {
    ::sched_yield();
    if (!behind(rank)) return;
  }
  waiting_since_ = Clock::now();
  while (true) {
    const uint32_t seen = segment_.post(rank).arrived.load(std::memory_order_acquire);
    if (static_cast<int32_t>(seen - arrived_) >= 0) return;
    sleep(rank, seen);
    if (behind(rank)) look_around();
  }
}

void Fence::sleep(int rank, uint32_t seen) noexcept {
  Post& post = segment_.post(rank);
  post.sleepers.fetch_add(1, std::memory_order_seq_cst);
  const timespec wait{0, kLookNs};
  futex(post.arrived, FUTEX_WAIT, seen, &wait);
  post.sleepers.fetch_sub(1, std::memory_order_seq_cst);
}

void Fence::look_around() {
  if (aborted_.load(std::memory_order_acquire)) fail_aborted();
  for (int rank = 0; rank < size_; ++rank) {
    // In this order: a rank may come to this fence and end right after.
    if (rank == rank_ || !peers_.ended(rank) || !behind(rank)) continue;
    fail({.place = name_of(call_.operation),
          .what = list({rank}) + " has ended",
          .got = waited(),
          .expected = expectation(),
          .remedy = "The output of rank " + std::to_string(rank) + " says why"});
  }
  for (int rank = 0; rank < size_; ++rank) {
    const Farewell& farewell = segment_.farewell(rank);
    const uint32_t state = farewell.state.load(std::memory_order_acquire);
    if (rank == rank_ || state == Farewell::kHere || !behind(rank)) continue;
    fail({.place = name_of(call_.operation),
          .what = list({rank}) + (state == Farewell::kClosed ? " has closed its group" : " gave up"),
          .got = state == Farewell::kClosed ? waited() : "from it \"" + std::string(farewell.text) + "\"",
          .expected = expectation(),
          .remedy = "Look for the first error in the output of rank " + std::to_string(rank)});
  }
  if (const auto text = lost_ ? lost_() : std::nullopt) {
    fail({.place = name_of(call_.operation),
          .what = *text,
          .got = waited(),
          .expected = expectation(),
          .remedy = "Look for the first error in the output of that rank"});
  }
  if (Clock::now() - waiting_since_ < timeout_) return;
  std::vector<int> missing;
  for (int rank = 0; rank < size_; ++rank) {
    if (rank != rank_ && behind(rank)) missing.push_back(rank);
  }
  if (missing.empty()) return;
  fail({.place = name_of(call_.operation),
        .what = list(missing) + " did not come within " + std::to_string(timeout_.count()) + " ms",
        .got = waited(),
        .expected = expectation(),
        .remedy = "See what the missing rank does (stopped, another branch, fewer batches), or raise the timeout"});
}

void Fence::compare_calls() {
  compared_ = true;
  bool equal = true;
  for (int rank = 0; rank < size_; ++rank) equal = equal && segment_.post(rank).calls[calls_ % 2] == call_;
  if (equal) return;
  std::vector<Call> calls;
  for (int rank = 0; rank < size_; ++rank) calls.push_back(segment_.post(rank).calls[calls_ % 2]);
  fail({.place = name_of(call_.operation),
        .what = "The ranks of group `" + group_ + "` call different things",
        .got = describe(calls),
        .expected = "one operation, dtype and number of elements on every rank",
        .remedy = "Let every rank reach the same collectives in the same order"});
}

void Fence::fail_aborted() {
  fail({.place = name_of(call_.operation),
        .what = "The group was aborted by another thread of rank " + std::to_string(rank_),
        .got = waited(),
        .expected = expectation(),
        .remedy = "Finish collectives before the group is aborted"});
}

void Fence::fail(ErrorText text) {
  const CommError error(text);
  broken_ = std::move(text);
  say_farewell(Farewell::kFailed, error.what());
  throw error;
}

void Fence::close() noexcept {
  closed_ = true;
  // A child that a rank forked has its copy of this object and says nothing.
  if (process_ == ::getpid()) say_farewell(Farewell::kClosed, {});
}

void Fence::say_farewell(Farewell::State state, const std::string& text) noexcept {
  Farewell& farewell = segment_.farewell(rank_);
  if (farewell.state.load(std::memory_order_relaxed) != Farewell::kHere) return;
  const size_t length = std::min(text.size(), sizeof farewell.text - 1);
  std::memcpy(farewell.text, text.data(), length);
  farewell.state.store(state, std::memory_order_release);
}

std::string Fence::waited() const {
  const auto since = waiting_since_ == Clock::time_point{} ? Clock::duration::zero() : Clock::now() - waiting_since_;
  const auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(since);
  return "rank " + std::to_string(rank_) + " waiting for " + std::to_string(elapsed.count()) + " ms in call " +
         std::to_string(calls_) + " of the group";
}

std::string Fence::expectation() const {
  return "all " + std::to_string(size_) + " ranks of group `" + group_ + "` in " + describe(call_);
}

}  // namespace accelerate::internal::shm
