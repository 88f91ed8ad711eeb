// The progress bar: what it writes, when, and to which stream.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sstream>
#include <vector>

#include "accelerate/accelerate.h"

namespace {

using accelerate::ProgressBar;
using accelerate::Tqdm;
using accelerate::TqdmOptions;
using testing::HasSubstr;
using namespace std::chrono_literals;

/// A clock that a test moves.
struct Time {
  std::chrono::steady_clock::time_point now{};
  ProgressBar::Clock clock() {
    return [this] { return now; };
  }
};

TEST(ProgressBar, TextOfTheState) {
  std::ostringstream out;
  Time time;
  ProgressBar bar(out, {.desc = "train", .total = 100}, time.clock());
  EXPECT_EQ(bar.text(), "train:   0%|....................| 0/100 [00:00<?, ?it/s]");
  time.now += 4s;
  bar.update(40);
  EXPECT_EQ(bar.text(), "train:  40%|########............| 40/100 [00:04<00:06, 10.00it/s]");
  bar.set_postfix("loss 0.5");
  bar.set_description("epoch 2");
  EXPECT_EQ(bar.text(), "epoch 2:  40%|########............| 40/100 [00:04<00:06, 10.00it/s, loss 0.5]");
  time.now += 2h;
  bar.update(60);
  EXPECT_EQ(bar.text(), "epoch 2: 100%|####################| 100/100 [2:00:04<00:00, 72.04s/it, loss 0.5]");
  bar.update(5);
  EXPECT_THAT(bar.text(), HasSubstr("100%|####################| 105/100")) << "more than there should be";
}

TEST(ProgressBar, WithoutATotalItCounts) {
  std::ostringstream out;
  Time time;
  ProgressBar bar(out, {.unit = "step"}, time.clock());
  time.now += 2s;
  bar.update(5);
  EXPECT_EQ(bar.text(), "5step [00:02, 2.50step/s]");
  ProgressBar nothing(out, {.total = 0}, time.clock());
  EXPECT_EQ(nothing.text(), "0it [00:00, ?it/s]");
}

TEST(ProgressBar, OnATerminalOneLineIsDrawnAgain) {
  std::ostringstream out;
  Time time;
  {
    ProgressBar bar(out, {.total = 4, .terminal = true}, time.clock());
    bar.update();
    EXPECT_EQ(out.str(), "") << "before the interval";
    time.now += 99ms;
    EXPECT_FALSE(bar.is_due());
    time.now += 1ms;
    EXPECT_TRUE(bar.is_due());
    bar.update();
    EXPECT_THAT(out.str(), testing::StartsWith("\r\033[K 50%|"));
    EXPECT_THAT(out.str(), testing::Not(HasSubstr("\n")));
    bar.write("a line");
    EXPECT_THAT(out.str(), HasSubstr("\r\033[Ka line\n\r\033[K 50%|"));
    bar.update(2);
  }
  EXPECT_THAT(out.str(), testing::EndsWith("it/s]\n"));
  EXPECT_THAT(out.str(), HasSubstr("\r\033[K100%|")) << "the last state is always drawn";
}

TEST(ProgressBar, ElsewhereItWritesPlainLinesNowAndThen) {
  std::ostringstream out;
  Time time;
  {
    ProgressBar bar(out, {.total = 100}, time.clock());
    for (int i = 0; i < 100; ++i) {
      time.now += 250ms;
      bar.update();
    }
    bar.write("between");
  }
  const std::string text = out.str();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;  // 10 s, 20 s, the line between, the end
  EXPECT_THAT(text, HasSubstr(" 40%|########............| 40/100 [00:10<00:15, 4.00it/s]\n"));
  EXPECT_THAT(text, testing::Not(HasSubstr("\r")));
  EXPECT_THAT(text, testing::EndsWith("between\n100%|####################| 100/100 [00:25<00:00, 4.00it/s]\n"));
}

TEST(ProgressBar, LeavesNothingBehindUnlessAsked) {
  std::ostringstream line, terminal;
  ProgressBar(line, {.total = 4, .leave = false}).update();
  EXPECT_EQ(line.str(), "");
  ProgressBar(terminal, {.total = 4, .leave = false, .terminal = true}).update();
  EXPECT_EQ(terminal.str(), "\r\033[K");
}

TEST(ProgressBar, DisabledItWritesNothingAndCounts) {
  std::ostringstream out;
  ProgressBar bar(out, {.total = 4, .disable = true, .terminal = true, .mininterval = 0ms});
  bar.update(3);
  bar.write("line");
  bar.close();
  EXPECT_FALSE(bar.is_due());
  EXPECT_EQ(bar.n(), 3);
  EXPECT_EQ(out.str(), "");
}

TEST(ProgressBar, AStreamThatThrowsDoesNotEndTheProgram) {
  std::ostringstream out;
  out.exceptions(std::ios::failbit | std::ios::badbit);
  {
    ProgressBar bar(out, {.total = 1});
    out.setstate(std::ios::goodbit);
    try {
      out.setstate(std::ios::badbit);
    } catch (const std::ios::failure&) {
      EXPECT_TRUE(out.bad());
    }
  }
  EXPECT_TRUE(out.bad());
}

TEST(TqdmOfARange, ShowsEveryPassAndHandsOutTheElementsThemselves) {
  const accelerate::Accelerator accelerator;
  std::ostringstream out;
  std::vector<int> numbers{1, 2, 3};
  auto bar = accelerator.tqdm(numbers, out, {.desc = "numbers"});
  for (int pass = 0; pass < 2; ++pass) {
    for (int& number : bar) {
      number += 1;
      EXPECT_LE(bar.n(), 2);
    }
    EXPECT_EQ(bar.n(), 3);
    out << "after\n";
  }
  EXPECT_EQ(numbers, (std::vector<int>{3, 4, 5}));
  const std::string text = out.str();
  EXPECT_THAT(text, HasSubstr("numbers: 100%|####################| 3/3 "));
  // The bar is closed when the loop ends, not when the variable does.
  EXPECT_THAT(text, testing::EndsWith("]\nafter\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
}

TEST(TqdmOfARange, TakesLoadersTemporariesAndRangesWithoutASize) {
  accelerate::Accelerator accelerator;
  std::ostringstream out;
  const auto loader =
      accelerator.prepare(accelerate::DataLoader(accelerate::TensorDataset(torch::arange(10)), {.batch_size = 4}));
  int64_t rows = 0;
  for (auto& [x] : accelerator.tqdm(loader, out)) {
    EXPECT_TRUE(accelerator.gradient_state().active_dataloader() == loader);
    rows += x.size(0);
  }
  EXPECT_EQ(rows, 10);
  EXPECT_THAT(out.str(), HasSubstr("| 3/3 ["));
  int sum = 0;
  for (const int i : accelerator.tqdm(std::vector<int>{1, 2}, out, {.total = 5})) sum += i;
  EXPECT_EQ(sum, 3);
  EXPECT_THAT(out.str(), HasSubstr("| 2/5 [")) << "a total that is given counts";
}

TEST(TqdmOfARange, AnErrorInTheLoopComesOut) {
  const accelerate::Accelerator accelerator;
  std::ostringstream out;
  const auto loop = [&] {
    for (const int i : accelerator.tqdm(std::vector<int>{1, 2, 3}, out)) {
      if (i == 2) throw std::runtime_error("inside");
    }
  };
  EXPECT_THROW(loop(), std::runtime_error);
  EXPECT_THAT(out.str(), HasSubstr("| 1/3 [")) << "how far it came";
}

TEST(TqdmByHand, IsABarThatIsMoved) {
  const accelerate::Accelerator accelerator;
  std::ostringstream out;
  {
    auto bar = accelerator.tqdm(out, {.total = 7});
    bar.update(7);
  }
  EXPECT_THAT(out.str(), HasSubstr("| 7/7 ["));
}

TEST(TqdmByHand, StandardOutputOfATestIsNoTerminal) {
  testing::internal::CaptureStdout();
  const accelerate::Accelerator accelerator;
  for (const int i : accelerator.tqdm(std::vector<int>{1, 2}, std::cout)) EXPECT_GT(i, 0);
  EXPECT_THAT(testing::internal::GetCapturedStdout(), testing::Not(HasSubstr("\r")));
}

}  // namespace
