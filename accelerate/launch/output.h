#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace accelerate::internal::launch {

/// Bytes on their way to a descriptor that is borrowed and may be slow. It need not be non-blocking: at most PIPE_BUF
/// bytes are written when poll() has said that it is writable.
class Sink {
 public:
  explicit Sink(int descriptor) : descriptor_(descriptor) {}

  int descriptor() const { return descriptor_; }
  void append(std::string_view bytes);
  /// Once, after poll(); a reader who left makes it broken, and what is pending is dropped.
  void write_some();
  bool pending() const { return begin_ < bytes_.size(); }
  /// Whoever fills it should wait.
  bool full() const { return bytes_.size() - begin_ > 1'048'576; }
  bool broken() const { return broken_; }

 private:
  int descriptor_;
  std::string bytes_;
  size_t begin_ = 0;
  bool broken_ = false;
};

/// What one rank writes to one stream. Without a prefix bytes pass as they come; with one, whole lines only, so that
/// lines of two ranks never mix. A line of more than 1 MiB is cut into lines.
class LineStream {
 public:
  explicit LineStream(std::string prefix) : prefix_(std::move(prefix)) {}
  void append(std::string_view bytes, Sink& sink);
  /// The stream has ended: a line without its newline gets one.
  void finish(Sink& sink);

 private:
  std::string prefix_;
  std::string line_;
};

/// The end of what a rank wrote.
class Tail {
 public:
  void append(std::string_view bytes);
  /// The last `count` lines; of a line that was overwritten in place (progress bars) what was to be seen last.
  std::vector<std::string> lines(size_t count) const;
  bool contains(std::string_view text) const { return bytes_.find(text) != std::string::npos; }

 private:
  std::string bytes_;
};

}  // namespace accelerate::internal::launch
