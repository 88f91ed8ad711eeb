#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace accelerate::internal::launch {

/// How `accelerate-cpp` ended and what came out of it and everything below it.
struct Outcome {
  int exit_code = 0;  ///< 128 + signal for one that a signal ended
  std::string out;
  std::string err;
};

enum class StandardInput { kEmpty, kClosed, kText };

struct Start {
  std::map<std::string, std::string> environment = {};  ///< besides PATH; nothing is inherited
  StandardInput in = StandardInput::kEmpty;
  std::string text = {};    ///< for kText
  bool one_output = false;  ///< standard error into the same pipe as standard output
};

/// `accelerate-cpp` with these arguments, under way. Its pipes are read to their ends, which come when every process
/// that inherited them is gone: whoever is left behind keeps finish() from returning, and that fails the test.
class Running {
 public:
  explicit Running(const std::vector<std::string>& arguments, const Start& start = {});
  ~Running();
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  pid_t id() const { return id_; }
  void signal(int number) const;
  /// Reads on until standard output has `text` that often.
  void wait_for(const std::string& text, int times = 1);
  const std::string& out() const { return out_; }
  /// The reader of standard output leaves.
  void close_out();
  Outcome finish();

 private:
  /// False at the end of both, or when nothing came for a long time.
  bool read_some();
  pid_t id_ = -1;
  int out_end_ = -1, err_end_ = -1;
  std::string out_, err_;
};

Outcome run(const std::vector<std::string>& arguments, const Start& start = {});

/// Arguments for `processes` shells that run `script`.
std::vector<std::string> shells(int processes, const std::string& script, std::vector<std::string> options = {});

int count(const std::string& text, const std::string& part);
std::vector<std::string> sorted_lines(const std::string& text);

/// A folder that is removed with what is in it.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  /// Writes a file with this mode; its path.
  std::string file(const std::string& name, const std::string& content, mode_t mode) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace accelerate::internal::launch
