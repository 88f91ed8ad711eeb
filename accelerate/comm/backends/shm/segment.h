#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "accelerate/comm/backends/shm/call.h"

namespace accelerate::internal::shm {

/// What a rank tells the others. Two cache lines of its own (processors fetch neighbours in pairs): an arrival and the
/// call it is for travel together.
struct alignas(128) Post {
  std::atomic<uint32_t> arrived{0};   ///< fences this rank has come to, modulo 2^32; a futex
  std::atomic<uint32_t> sleepers{0};  ///< ranks that sleep on `arrived`
  Call calls[2];                      ///< by parity: one may still be read while the next is written
};

/// Why a rank will come to no further fence.
struct Farewell {
  enum State : uint32_t { kHere, kClosed, kFailed };
  std::atomic<uint32_t> state{kHere};  ///< written last
  char text[508] = {};                 ///< kFailed: the error, cut off where it is too long, ends with 0
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

/// Memory that all ranks of a group see: a Post and a Farewell a rank, and `kBuffers` buffers a rank to hand data over.
///
/// It is an unlinked file in memory (memfd) that other ranks open through /proc/<pid>/fd: no name ever exists that a
/// killed process could leave behind, and the limits of /dev/shm do not apply.
class Segment {
 public:
  static constexpr int kBuffers = 4;

  /// Where another process finds it, as text without spaces at its ends.
  struct Address {
    int64_t pid = 0;
    int descriptor = -1;
    std::string nonce = {};
    int ranks = 0;
    size_t buffer_bytes = 0;

    std::string text() const;
    static std::optional<Address> parse(const std::string& text);
  };

  /// Throws std::runtime_error with the reason when the system gives no such memory.
  static Segment create(int ranks);

  /// Throws std::runtime_error with the reason when `address` is not reachable from this process: another host, another
  /// process namespace, another user, no /proc.
  static Segment open(const Address& address);

  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  /// For `open` in other processes, until `release()`.
  Address address() const;

  /// Everybody has opened it: the descriptor is closed.
  void release() noexcept;

  int ranks() const noexcept { return ranks_; }
  size_t buffer_bytes() const noexcept { return buffer_bytes_; }

  Post& post(int rank) noexcept;
  Farewell& farewell(int rank) noexcept;

  /// `buffer_bytes()` bytes, aligned to pages; `number` is taken modulo kBuffers.
  std::byte* buffer(int rank, uint64_t number) noexcept;

 private:
  Segment(int descriptor, int ranks, size_t buffer_bytes, std::string nonce);

  int descriptor_;
  int ranks_;
  size_t buffer_bytes_;
  std::string nonce_;
  std::byte* base_ = nullptr;
};

}  // namespace accelerate::internal::shm
