#include "accelerate/launch/output.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <climits>
#include <csignal>

#include "accelerate/launch/descriptor.h"

namespace accelerate::internal::launch {
namespace {

/// What a sink writes into a pipe that is large enough.
std::string written(Sink& sink, const Pipe& pipe) {
  std::string all;
  while (sink.pending()) {
    sink.write_some();
    char bytes[PIPE_BUF];
    const ssize_t size = ::read(pipe.read.number(), bytes, sizeof(bytes));
    all.append(bytes, static_cast<size_t>(size));
  }
  return all;
}

std::string through(const std::string& prefix, const std::vector<std::string>& pieces) {
  const Pipe pipe = Pipe::make();
  Sink sink(pipe.write.number());
  LineStream stream(prefix);
  for (const std::string& piece : pieces) stream.append(piece, sink);
  stream.finish(sink);
  return written(sink, pipe);
}

TEST(LaunchOutput, WithoutAPrefixBytesPassAsTheyCome) {
  EXPECT_EQ(through("", {"a\nb", "", "\r\n\0x"}), "a\nb\r\n");
  EXPECT_EQ(through("", {"no newline"}), "no newline");
}

TEST(LaunchOutput, APrefixStandsBeforeEveryLine) {
  EXPECT_EQ(through("[3] ", {"a\n\nb\n"}), "[3] a\n[3] \n[3] b\n");
  EXPECT_EQ(through("[3] ", {"in", " pieces", "\nand a last"}), "[3] in pieces\n[3] and a last\n");
  EXPECT_EQ(through("[3] ", {}), "");
}

RC_GTEST_PROP(LaunchOutput, HowBytesWereCutMakesNoDifference, ()) {
  const auto pieces =
      *rc::gen::container<std::vector<std::string>>(rc::gen::container<std::string>(rc::gen::element('a', '\n')));
  std::string all;
  for (const std::string& piece : pieces) all += piece;
  RC_ASSERT(through("> ", pieces) == through("> ", {all}));
}

TEST(LaunchOutput, ALineWithoutEndIsCut) {
  const size_t limit = 1'048'576;
  const std::string text = through("", {}) + through("> ", {std::string(limit + 5, 'x') + "\nnext\n"});
  EXPECT_EQ(text, "> " + std::string(limit, 'x') + "\n> xxxxx\n> next\n");
}

TEST(LaunchOutput, ASinkKnowsWhenItsReaderHasLeft) {
  struct sigaction ignore {
  }, before{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &before);
  Pipe pipe = Pipe::make();
  Sink sink(pipe.write.number());
  sink.append("lost");
  pipe.read.close();
  EXPECT_FALSE(sink.broken());
  sink.write_some();
  EXPECT_TRUE(sink.broken());
  sink.append("more");
  EXPECT_FALSE(sink.pending());
  ::sigaction(SIGPIPE, &before, nullptr);
}

TEST(LaunchOutput, AFullSinkAsksToWait) {
  const Pipe pipe = Pipe::make();
  Sink sink(pipe.write.number());
  sink.append(std::string(1'048'576, 'x'));
  EXPECT_FALSE(sink.full());
  sink.append("x");
  EXPECT_TRUE(sink.full());
  EXPECT_EQ(written(sink, pipe).size(), 1'048'577u);
  EXPECT_FALSE(sink.full());
}

TEST(LaunchOutput, TheTailHasTheLastLines) {
  Tail tail;
  EXPECT_TRUE(tail.lines(3).empty());
  tail.append("one\ntwo\nthr");
  tail.append("ee\nfour");
  EXPECT_EQ(tail.lines(2), (std::vector<std::string>{"three", "four"}));
  tail.append("\n");
  EXPECT_EQ(tail.lines(9), (std::vector<std::string>{"one", "two", "three", "four"}));
  EXPECT_TRUE(tail.contains("two"));
  EXPECT_FALSE(tail.contains("five"));
}

TEST(LaunchOutput, OfAProgressBarTheTailHasTheLastState) {
  Tail tail;
  tail.append("10 %\r20 %\r30 %\r\nfailed\r\n");
  EXPECT_EQ(tail.lines(9), (std::vector<std::string>{"30 %", "failed"}));
}

TEST(LaunchOutput, TheTailForgetsWhatIsOld) {
  Tail tail;
  for (int line = 0; line < 100'000; ++line) tail.append("line " + std::to_string(line) + "\n");
  EXPECT_EQ(tail.lines(2), (std::vector<std::string>{"line 99998", "line 99999"}));
  EXPECT_FALSE(tail.contains("line 50000\n"));
  tail.append(std::string(1'000'000, 'x') + "\nend");
  EXPECT_EQ(tail.lines(1), (std::vector<std::string>{"end"}));
}

}  // namespace
}  // namespace accelerate::internal::launch
