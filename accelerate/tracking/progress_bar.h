#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <optional>
#include <string>

namespace accelerate {

/// How a loop's progress is shown, in the words of Python's tqdm.
struct TqdmOptions {
  std::string desc = {};              ///< stands in front
  std::optional<int64_t> total = {};  ///< steps; unset: the size of the range, if it has one
  std::string unit = "it";            ///< of a step
  bool main_process_only = true;      ///< shown once a host; false: by every process
  bool disable = false;               ///< not shown at all
  bool leave = true;                  ///< the last state stays; false: a terminal's line is cleared, no last line
  std::optional<bool> terminal = {};  ///< one line that is drawn again and again; unset: whether the stream is one
  std::chrono::milliseconds mininterval = std::chrono::milliseconds(100);  ///< between two drawings on a terminal
  std::chrono::milliseconds line_interval = std::chrono::seconds(10);      ///< between two lines elsewhere
};

/// How far a loop is, on a stream that must outlive it: on a terminal a bar that is drawn again and again, elsewhere a
/// plain line now and then. A step costs a look at the clock; no thread stands behind it. Source: `tqdm.auto.tqdm`.
class ProgressBar {
 public:
  using Clock = std::function<std::chrono::steady_clock::time_point()>;
  /// `clock` for tests; empty: the steady clock.
  ProgressBar(std::ostream& out, TqdmOptions options, Clock clock = {});
  /// Closes it; what the stream cannot take is lost.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(int64_t steps = 1);
  /// Whether `update` would draw now: only then read a loss from the device for `set_postfix`.
  bool is_due() const;
  /// Stands at the end: "loss 0.12".
  void set_postfix(std::string postfix) { postfix_ = std::move(postfix); }
  void set_description(std::string desc) { options_.desc = std::move(desc); }
  /// A line that stays, above the bar. Not written where the bar is not shown.
  void write(const std::string& line);
  /// The last state, at once. Nothing is drawn afterwards until `reset`.
  void close();
  /// Counts from 0 again.
  void reset();

  int64_t n() const { return done_; }
  std::optional<int64_t> total() const { return options_.total; }
  /// What is drawn now: `train:  42%|########............| 42/100 [00:03<00:04, 12.30it/s, loss 0.1]`.
  std::string text() const;

 private:
  std::chrono::steady_clock::time_point now() const;
  void draw();

  std::ostream& out_;
  TqdmOptions options_;
  Clock clock_;
  std::string postfix_;
  int64_t columns_ = 0;  ///< of the terminal; 0: none
  bool terminal_;
  bool open_;
  int64_t done_ = 0;
  std::chrono::steady_clock::time_point started_, drawn_;
};

}  // namespace accelerate
