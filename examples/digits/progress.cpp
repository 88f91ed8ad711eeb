#include "examples/digits/progress.h"

#include <unistd.h>

#include <cstdio>

namespace digits {

Progress::Progress(int64_t epochs, int64_t steps_per_epoch, bool visible)
    : epochs_(epochs), steps_per_epoch_(steps_per_epoch), visible_(visible), bar_(visible && isatty(STDOUT_FILENO)) {}

bool Progress::advance() {
  ++steps_;
  return bar_ && std::chrono::steady_clock::now() - drawn_ > std::chrono::milliseconds(50);
}

void Progress::draw(double loss, double learning_rate) {
  constexpr int kWidth = 30;
  const int64_t total = epochs_ * steps_per_epoch_;
  const int full = static_cast<int>(kWidth * steps_ / total);
  std::printf("\r\033[Kepoch %2ld/%ld [%s%s] %3ld %%  loss %.4f  learning rate %.1e",
              (steps_ - 1) / steps_per_epoch_ + 1, epochs_, std::string(full, '#').c_str(),
              std::string(kWidth - full, '.').c_str(), 100 * steps_ / total, loss, learning_rate);
  std::fflush(stdout);
  drawn_ = std::chrono::steady_clock::now();
}

void Progress::finish_epoch(double loss, double learning_rate, double accuracy) {
  if (!visible_) return;
  if (bar_) std::printf("\r\033[K");
  std::printf("epoch %2ld/%ld  loss %.4f  learning rate %.1e  held-out accuracy %.4f\n", steps_ / steps_per_epoch_,
              epochs_, loss, learning_rate, accuracy);
  std::fflush(stdout);
}

}  // namespace digits
