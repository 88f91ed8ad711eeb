#include "accelerate/tracking/progress_bar.h"

#include <algorithm>
#include <cstdio>
#include <ostream>

#include "accelerate/core/terminal.h"

namespace accelerate {
namespace {

constexpr int64_t kWidth = 20;
constexpr const char* kClearLine = "\r\033[K";

std::string duration(double seconds) {
  const auto whole = static_cast<long>(seconds);
  char text[32];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%02ld:%02ld", whole / 60, whole % 60);
  }
  return text;
}

/// "12.30it/s", or "2.50s/it" for less than one a second.
std::string speed(int64_t steps, double seconds, const std::string& unit) {
  if (steps == 0 || seconds <= 0) return "?" + unit + "/s";
  const double rate = static_cast<double>(steps) / seconds;
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", rate < 1 ? 1 / rate : rate);
  return rate < 1 ? text + ("s/" + unit) : text + unit + "/s";
}

/// At most `columns` bytes, without a part of a UTF-8 character at the end.
std::string cut(std::string text, int64_t columns) {
  if (static_cast<int64_t>(text.size()) <= columns) return text;
  size_t end = static_cast<size_t>(columns);
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
  return text;
}

}  // namespace

ProgressBar::ProgressBar(std::ostream& out, TqdmOptions options, Clock clock)
    : out_(out), options_(std::move(options)), clock_(std::move(clock)), open_(!options_.disable) {
  const std::optional<Terminal> terminal = terminal_of(out_);
  terminal_ = options_.terminal.value_or(terminal.has_value());
  if (terminal_ && terminal) columns_ = terminal->columns;
  started_ = drawn_ = now();
}

ProgressBar::~ProgressBar() {
  try {
    close();
  } catch (...) {
    open_ = false;  // a stream that throws shows nothing more
  }
}

std::chrono::steady_clock::time_point ProgressBar::now() const {
  return clock_ ? clock_() : std::chrono::steady_clock::now();
}

bool ProgressBar::is_due() const {
  return open_ && now() - drawn_ >= (terminal_ ? options_.mininterval : options_.line_interval);
}

void ProgressBar::update(int64_t steps) {
  done_ += steps;
  if (is_due()) draw();
}

void ProgressBar::draw() {
  drawn_ = now();
  if (terminal_) {
    // One column stays free: a full line makes some terminals go to the next.
    out_ << kClearLine << (columns_ > 1 ? cut(text(), columns_ - 1) : text()) << std::flush;
  } else {
    out_ << text() << std::endl;
  }
}

void ProgressBar::write(const std::string& line) {
  if (!open_) return;
  if (terminal_) out_ << kClearLine;
  out_ << line << std::endl;
  if (terminal_) draw();
}

void ProgressBar::close() {
  if (!open_) return;
  open_ = false;
  if (options_.leave) {
    draw();
    if (terminal_) out_ << std::endl;
  } else if (terminal_) {
    out_ << kClearLine << std::flush;
  }
}

void ProgressBar::reset() {
  done_ = 0;
  open_ = !options_.disable;
  started_ = drawn_ = now();
}

std::string ProgressBar::text() const {
  const double elapsed = std::chrono::duration<double>(now() - started_).count();
  std::string text = options_.desc.empty() ? "" : options_.desc + ": ";
  std::string left;
  if (options_.total && *options_.total > 0) {
    const int64_t total = *options_.total;
    const int64_t reached = std::clamp<int64_t>(done_, 0, total);
    const int64_t full = kWidth * reached / total;
    char percent[8];
    std::snprintf(percent, sizeof percent, "%3d%%|", static_cast<int>(100 * reached / total));
    text += percent + std::string(full, '#') + std::string(kWidth - full, '.') + "| ";
    text += std::to_string(done_) + "/" + std::to_string(total);
    left = "<" + (done_ > 0 ? duration(elapsed / static_cast<double>(done_) * static_cast<double>(total - reached))
                            : std::string("?"));
  } else {
    text += std::to_string(done_) + options_.unit;
  }
  text += " [" + duration(elapsed) + left + ", " + speed(done_, elapsed, options_.unit);
  return text + (postfix_.empty() ? "" : ", " + postfix_) + "]";
}

}  // namespace accelerate
