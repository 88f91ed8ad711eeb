#pragma once

#include <string>
#include <utility>

namespace accelerate::internal::launch {

/// Owns one file descriptor and closes it; -1 is none.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor() { close(); }

  int number() const { return number_; }
  bool open() const { return number_ >= 0; }
  void close() noexcept;

 private:
  int number_ = -1;
};

/// Both ends are closed on exec, so that no child keeps another one's pipe open.
struct Pipe {
  Descriptor read;
  Descriptor write;
  /// Throws ConfigError with the system's reason.
  static Pipe make();
};

/// Opens /dev/null in place of those of standard input, output and error that are closed: a pipe that landed on one of
/// these numbers would be taken for the terminal.
void fill_standard_descriptors();

/// Throws ConfigError: "[launch] `what` failed: got <the text of errno>. <remedy>."
[[noreturn]] void throw_errno(const std::string& what, int number, const std::string& remedy);

}  // namespace accelerate::internal::launch
