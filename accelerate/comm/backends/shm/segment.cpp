#include "accelerate/comm/backends/shm/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <random>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace accelerate::internal::shm {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kNonceAt = 0;  // a page with the nonce, then posts, farewells, buffers

// Measured with 2 ranks: below 256 KB the fences show, above 1 MB the buffers leave the second-level caches.
constexpr size_t kBufferBytes = 512 << 10;
constexpr size_t kMostBytes = 256 << 20;  // of all buffers: many ranks get smaller ones
constexpr size_t kLeastBufferBytes = 32 << 10;

size_t pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
size_t posts_at() { return kNonceAt + kPage; }
size_t farewells_at(int ranks) { return posts_at() + pages(sizeof(Post) * ranks); }
size_t buffers_at(int ranks) { return farewells_at(ranks) + pages(sizeof(Farewell) * ranks); }
size_t total_bytes(int ranks, size_t buffer_bytes) {
  return buffers_at(ranks) + buffer_bytes * Segment::kBuffers * ranks;
}

size_t buffer_bytes_for(int ranks) {
  const size_t share = kMostBytes / Segment::kBuffers / ranks / kPage * kPage;
  return std::clamp(share, kLeastBufferBytes, kBufferBytes);
}

std::string random_nonce() {
  std::random_device random;
  std::ostringstream text;
  for (int i = 0; i < 4; ++i) text << std::hex << random();
  return text.str();
}

[[noreturn]] void fail(const std::string& what, int error) {
  throw std::runtime_error(what + ": " + std::generic_category().message(error));
}

int create_file(const std::string& name) {
#ifdef MFD_NOEXEC_SEAL
  constexpr unsigned kNoExecute = MFD_NOEXEC_SEAL;
#else
  constexpr unsigned kNoExecute = 0x0008U;  // Linux 6.3; some systems demand it
#endif
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int descriptor = ::memfd_create(name.c_str(), kFlags | kNoExecute);
  if (descriptor < 0 && errno == EINVAL) descriptor = ::memfd_create(name.c_str(), kFlags);
  if (descriptor < 0) fail("memfd_create failed", errno);
  return descriptor;
}

std::string file_name(const std::string& nonce) { return "accelerate." + nonce; }

}  // namespace

std::string Segment::Address::text() const {
  std::ostringstream out;
  out << pid << ' ' << descriptor << ' ' << nonce << ' ' << ranks << ' ' << buffer_bytes;
  return out.str();
}

std::optional<Segment::Address> Segment::Address::parse(const std::string& text) {
  Address address;
  std::istringstream in(text);
  if (!(in >> address.pid >> address.descriptor >> address.nonce >> address.ranks >> address.buffer_bytes)) return {};
  return address;
}

Segment::Segment(int descriptor, int ranks, size_t buffer_bytes, std::string nonce)
    : descriptor_(descriptor), ranks_(ranks), buffer_bytes_(buffer_bytes), nonce_(std::move(nonce)) {
  void* memory = ::mmap(nullptr, total_bytes(ranks, buffer_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    release();
    fail("Mapping " + std::to_string(total_bytes(ranks, buffer_bytes)) + " bytes of shared memory failed", error);
  }
  base_ = static_cast<std::byte*>(memory);
}

Segment Segment::create(int ranks) {
  const size_t buffer_bytes = buffer_bytes_for(ranks);
  const size_t bytes = total_bytes(ranks, buffer_bytes);
  // Past the limit the kernel would send a signal that ends the process.
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < bytes) {
    throw std::runtime_error("files may not have the " + std::to_string(bytes) + " bytes needed (ulimit -f)");
  }
  const std::string nonce = random_nonce();
  const int descriptor = create_file(file_name(nonce));
  if (::ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    ::close(descriptor);
    fail("Shared memory of " + std::to_string(bytes) + " bytes is not to be had", error);
  }
  // Nobody can make it shorter under a rank that reads it.
  ::fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  Segment segment(descriptor, ranks, buffer_bytes, nonce);
  std::memcpy(segment.base_ + kNonceAt, nonce.c_str(), nonce.size() + 1);
  for (int rank = 0; rank < ranks; ++rank) {
    new (&segment.post(rank)) Post;
    new (&segment.farewell(rank)) Farewell;
  }
  return segment;
}

Segment Segment::open(const Address& address) {
  const std::string path = "/proc/" + std::to_string(address.pid) + "/fd/" + std::to_string(address.descriptor);
  // Looked at before it is opened: in another process namespace the path may lead to a terminal or a pipe.
  std::array<char, 256> target{};
  if (::readlink(path.c_str(), target.data(), target.size() - 1) < 0) fail("cannot see " + path, errno);
  const std::string expected = "/memfd:" + file_name(address.nonce);
  if (!std::string(target.data()).starts_with(expected)) {
    throw std::runtime_error(path + " is another file here (another host or process namespace)");
  }
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) fail("cannot open " + path, errno);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 ||
      static_cast<size_t>(status.st_size) != total_bytes(address.ranks, address.buffer_bytes)) {
    ::close(descriptor);
    throw std::runtime_error(path + " has not the size that was announced");
  }
  Segment segment(descriptor, address.ranks, address.buffer_bytes, address.nonce);
  segment.release();
  const auto* nonce = reinterpret_cast<const char*>(segment.base_ + kNonceAt);
  if (std::strncmp(nonce, address.nonce.c_str(), address.nonce.size() + 1) != 0) {
    throw std::runtime_error(path + " has not the content that was announced");
  }
  return segment;
}

Segment::Segment(Segment&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      ranks_(other.ranks_),
      buffer_bytes_(other.buffer_bytes_),
      nonce_(std::move(other.nonce_)),
      base_(std::exchange(other.base_, nullptr)) {}

Segment& Segment::operator=(Segment&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(ranks_, other.ranks_);
  std::swap(buffer_bytes_, other.buffer_bytes_);
  std::swap(nonce_, other.nonce_);
  std::swap(base_, other.base_);
  return *this;
}

Segment::~Segment() {
  release();
  if (base_ != nullptr) ::munmap(base_, total_bytes(ranks_, buffer_bytes_));
}

Segment::Address Segment::address() const {
  return {
      .pid = ::getpid(), .descriptor = descriptor_, .nonce = nonce_, .ranks = ranks_, .buffer_bytes = buffer_bytes_};
}

void Segment::release() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

Post& Segment::post(int rank) noexcept { return reinterpret_cast<Post*>(base_ + posts_at())[rank]; }

Farewell& Segment::farewell(int rank) noexcept {
  return reinterpret_cast<Farewell*>(base_ + farewells_at(ranks_))[rank];
}

std::byte* Segment::buffer(int rank, uint64_t number) noexcept {
  return base_ + buffers_at(ranks_) + buffer_bytes_ * (static_cast<size_t>(rank) * kBuffers + number % kBuffers);
}

}  // namespace accelerate::internal::shm
