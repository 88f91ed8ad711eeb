#include "accelerate/launch/output.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace accelerate::internal::launch {
namespace {

constexpr size_t kLongestLine = 1'048'576;
constexpr size_t kTailBytes = 16'384;

}  // namespace

void Sink::append(std::string_view bytes) {
  if (broken_) return;
  if (begin_ > bytes_.size() / 2) {
    bytes_.erase(0, begin_);
    begin_ = 0;
  }
  bytes_ += bytes;
}

void Sink::write_some() {
  if (!pending()) return;
  const ssize_t count =
      ::write(descriptor_, bytes_.data() + begin_, std::min<size_t>(bytes_.size() - begin_, PIPE_BUF));
  if (count >= 0) {
    begin_ += static_cast<size_t>(count);
  } else if (errno != EINTR && errno != EAGAIN) {
    broken_ = true;
    bytes_.clear();
    begin_ = 0;
  }
}

void LineStream::append(std::string_view bytes, Sink& sink) {
  if (prefix_.empty()) {
    sink.append(bytes);
    return;
  }
  while (!bytes.empty()) {
    const size_t newline = bytes.find('\n');
    const size_t room = kLongestLine - line_.size();
    const size_t part = std::min(newline == std::string_view::npos ? bytes.size() : newline, room);
    line_ += bytes.substr(0, part);
    bytes.remove_prefix(part);
    if (!bytes.empty() && bytes.front() == '\n') {
      bytes.remove_prefix(1);
    } else if (line_.size() < kLongestLine) {
      return;
    }
    sink.append(prefix_ + line_ + "\n");
    line_.clear();
  }
}

void LineStream::finish(Sink& sink) {
  if (!line_.empty()) sink.append(prefix_ + line_ + "\n");
  line_.clear();
}

void Tail::append(std::string_view bytes) {
  bytes_ += bytes.substr(bytes.size() - std::min(bytes.size(), kTailBytes));
  // Twice as much is kept so that bytes are seldom moved.
  if (bytes_.size() > 2 * kTailBytes) bytes_.erase(0, bytes_.size() - kTailBytes);
}

std::vector<std::string> Tail::lines(size_t count) const {
  std::vector<std::string> found;
  std::string_view rest = bytes_;
  while (!rest.empty() && found.size() < count) {
    if (rest.back() == '\n') rest.remove_suffix(1);
    const size_t newline = rest.rfind('\n');
    std::string_view line = newline == std::string_view::npos ? rest : rest.substr(newline + 1);
    rest = newline == std::string_view::npos ? std::string_view() : rest.substr(0, newline + 1);
    while (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (const size_t carriage = line.rfind('\r'); carriage != std::string_view::npos) line.remove_prefix(carriage + 1);
    found.emplace_back(line);
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace accelerate::internal::launch
