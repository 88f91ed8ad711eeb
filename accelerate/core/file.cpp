#include "accelerate/core/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate {
namespace {

// One `write` or `read` moves at most 0x7ffff000 bytes on Linux; smaller pieces also let a full disk show early.
constexpr size_t kMaxTransfer = size_t{1} << 30;

std::string reason() { return std::strerror(errno); }

std::string parent_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  std::error_code error;
  std::filesystem::create_directories(parent_of(path_), error);
  if (error) {
    throw DataError({.place = path_,
                     .what = "The folder cannot be created",
                     .got = error.message(),
                     .expected = "a folder, or a place where one can be made",
                     .remedy = "Choose a folder that you may write to"});
  }
  const std::string stem = path_ + ".tmp-" + std::to_string(::getpid()) + "-";
  for (int attempt = 0; descriptor_ < 0; ++attempt) {
    const std::string candidate = stem + std::to_string(attempt);
    descriptor_ = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) {
      temporary_ = candidate;
    } else if (errno != EEXIST) {
      fail("The file cannot be created");
    }
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write_at(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t wanted = std::min(bytes.size(), kMaxTransfer);
    const ssize_t done = ::pwrite(descriptor_, bytes.data(), wanted, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("The file cannot be written");
    bytes = bytes.subspan(static_cast<size_t>(done));
    offset += done;
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail("The file cannot be made durable");
  // Network file systems report a full disk only here.
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("The file cannot be closed");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("The finished file cannot be renamed");
  temporary_.clear();
  const int folder = ::open(parent_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) fail_after_rename("The folder cannot be opened");
  const int failure = ::fsync(folder) == 0 ? 0 : errno;
  ::close(folder);
  errno = failure;
  // Some file systems cannot synchronise a folder and say so with EINVAL.
  if (failure != 0 && failure != EINVAL) fail_after_rename("The folder cannot be made durable");
}

void AtomicFile::fail_after_rename(const std::string& what) const {
  const std::string why = reason();
  throw DataError(
      {.place = path_,
       .what = what,
       .got = why,
       .expected = "a folder that can be synchronised",
       .remedy = "The new file is in place, but a power failure could bring the old one back; write it again"});
}

void AtomicFile::fail(const std::string& what) const {
  const std::string why = reason();
  throw DataError({.place = path_,
                   .what = what,
                   .got = why,
                   .expected = "room and permission to write it",
                   .remedy = "What was there before is unchanged; free some space or choose another folder"});
}

FileReader::FileReader(std::string path) : path_(std::move(path)) {
  // Without O_NONBLOCK a pipe would be waited for until somebody writes.
  descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat status {};
  const bool opened = descriptor_ >= 0 && ::fstat(descriptor_, &status) == 0;
  if (!opened || !S_ISREG(status.st_mode)) {
    const std::string why = !opened ? reason() : S_ISDIR(status.st_mode) ? "a folder" : "no regular file";
    if (descriptor_ >= 0) ::close(descriptor_);
    throw DataError({.place = path_,
                     .what = "The file cannot be read",
                     .got = why,
                     .expected = "a readable file",
                     .remedy = "Check the path"});
  }
  size_ = status.st_size;
}

FileReader::~FileReader() { ::close(descriptor_); }

void FileReader::read_at(int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t done = ::pread(descriptor_, bytes.data(), std::min(bytes.size(), kMaxTransfer), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      throw DataError({.place = path_,
                       .what = done < 0 ? "The file cannot be read" : "The file ends too early",
                       .got = done < 0 ? reason() : "end of file at byte " + std::to_string(offset),
                       .expected = std::to_string(bytes.size()) + " more bytes",
                       .remedy = "Write or copy the file again"});
    }
    bytes = bytes.subspan(static_cast<size_t>(done));
    offset += done;
  }
}

}  // namespace accelerate
