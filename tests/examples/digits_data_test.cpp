// The digits file and the ways in which it can be bad. Every error names the file, what was found, what was expected
// and what to do.
#include "examples/digits/data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "accelerate/core/error.h"

namespace {

using testing::HasSubstr;
using testing::StartsWith;

const std::filesystem::path kShipped = ACCELERATE_SOURCE_DIR "/data/digits.csv.gz";

std::string bytes_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// 64 pixels of `value`, and a label.
std::string line(const std::string& value, const std::string& label) {
  std::string out;
  for (int i = 0; i < 64; ++i) out += value + ",";
  return out + label + "\n";
}

class DigitsData : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    file_ = std::filesystem::path(testing::TempDir()) / (std::string("digits_data_") + test->name());
  }
  void TearDown() override { std::filesystem::remove(file_); }

  digits::Samples read(const std::string& bytes) {
    std::ofstream(file_, std::ios::binary) << bytes;
    return digits::read(file_);
  }
  /// The error that reading `bytes` ends in; its place is the file, its remedy says where to get a good one.
  accelerate::ErrorText error(const std::string& bytes) {
    try {
      read(bytes);
    } catch (const accelerate::DataError& error) {
      EXPECT_EQ(error.text().place, "digits data " + file_.string());
      EXPECT_THAT(error.text().remedy, HasSubstr("git checkout -- data/digits.csv.gz"));
      return error.text();
    }
    ADD_FAILURE() << "no DataError";
    return {};
  }

  std::filesystem::path file_;
};

TEST_F(DigitsData, TheShippedFileHoldsWhatItsReadmeSays) {
  const auto all = digits::read(kShipped);
  EXPECT_EQ(all.images.sizes(), (at::IntArrayRef{1797, 1, 8, 8}));
  EXPECT_EQ(all.labels.sizes(), (at::IntArrayRef{1797}));
  EXPECT_EQ(all.images.scalar_type(), torch::kFloat);
  EXPECT_EQ(all.images.min().item<float>(), 0);
  EXPECT_EQ(all.images.max().item<float>(), 1);
  // Counts a class as UCI lists them for the test set.
  const std::vector<int64_t> expected = {178, 182, 177, 183, 181, 182, 181, 179, 174, 180};
  for (int64_t digit = 0; digit < 10; ++digit) {
    EXPECT_EQ((all.labels == digit).sum().item<int64_t>(), expected[digit]) << digit;
  }
}

TEST_F(DigitsData, EveryFifthRowIsHeldOutAndNoRowIsLostOrShared) {
  const auto all = digits::read(kShipped);
  const auto [train, test] = digits::hold_out_every_fifth(all);
  ASSERT_EQ(train.labels.size(0), 1437);
  ASSERT_EQ(test.labels.size(0), 360);
  int64_t in_train = 0, in_test = 0;
  for (int64_t row = 0; row < 1797; ++row) {
    const bool held_out = row % 5 == 0;
    const auto& part = held_out ? test : train;
    const int64_t at = held_out ? in_test++ : in_train++;
    ASSERT_TRUE(part.images[at].equal(all.images[row])) << row;
    ASSERT_TRUE(part.labels[at].equal(all.labels[row])) << row;
  }
}

TEST_F(DigitsData, PlainTextIsReadToo) {
  const auto two = read(line("16", "3") + line("4", "9"));
  EXPECT_TRUE(two.images[0].equal(torch::ones({1, 8, 8})));
  EXPECT_TRUE(two.images[1].equal(torch::full({1, 8, 8}, 0.25)));
  EXPECT_TRUE(two.labels.equal(torch::tensor({3, 9}, torch::kLong)));
}

TEST_F(DigitsData, AFileThatIsNotThere) {
  try {
    digits::read("/nowhere/digits.csv.gz");
    ADD_FAILURE() << "no DataError";
  } catch (const accelerate::DataError& error) {
    EXPECT_THAT(error.what(), StartsWith("[digits data /nowhere/digits.csv.gz] The file cannot be opened: got No such "
                                         "file or directory, expected a readable file. Restore it with"));
  }
}

TEST_F(DigitsData, AFolder) {
  EXPECT_THAT([] { digits::read(testing::TempDir()); },
              testing::ThrowsMessage<accelerate::DataError>(HasSubstr("Is a directory")));
}

TEST_F(DigitsData, AFileWithoutALine) {
  const auto text = error("");
  EXPECT_EQ(text.what, "There are no images in the file");
  EXPECT_EQ(text.got, "0 lines");
}

TEST_F(DigitsData, AStreamThatEndsEarlyAnywhere) {
  const std::string whole = bytes_of(kShipped);
  ASSERT_GT(whole.size(), 50'000u);
  // The first bytes of a gzip header, the header, the middle, the check sum, one byte before the end.
  for (const size_t size : {size_t{1}, size_t{2}, size_t{9}, size_t{10}, size_t{11}, size_t{1000}, whole.size() / 2,
                            whole.size() - 9, whole.size() - 8, whole.size() - 4, whole.size() - 1}) {
    SCOPED_TRACE(size);
    EXPECT_FALSE(error(whole.substr(0, size)).what.empty());
  }
}

TEST_F(DigitsData, AFlippedBitAnywhereInTheStream) {
  const std::string whole = bytes_of(kShipped);
  // Behind the header of 10 bytes, whose flags and time carry no check sum.
  for (size_t at = 10; at < whole.size(); at += 4999) {
    SCOPED_TRACE(at);
    std::string flipped = whole;
    flipped[at] ^= 0x10;
    EXPECT_FALSE(error(flipped).what.empty());
  }
}

TEST_F(DigitsData, ALineThatIsTooShort) {
  const auto text = error(line("1", "2") + "1,2,3\n");
  EXPECT_EQ(text.what, "Line 2 is too short");
  EXPECT_EQ(text.got, "3 values");
  EXPECT_EQ(text.expected, "64 pixels and a label");
}

TEST_F(DigitsData, ALineThatIsTooLong) {
  const auto text = error(line("1", "2,5"));
  EXPECT_EQ(text.what, "Line 1 is too long");
  EXPECT_EQ(text.got, "more than 65 values");
}

TEST_F(DigitsData, APixelThatIsOutOfRange) {
  const auto text = error(line("17", "2"));
  EXPECT_EQ(text.what, "Line 1 has a bad value in column 1");
  EXPECT_EQ(text.got, "\"17\"");
  EXPECT_EQ(text.expected, "a whole number from 0 to 16");
  EXPECT_EQ(error(line("-1", "2")).got, "\"-1\"");
}

TEST_F(DigitsData, ALabelThatIsOutOfRange) {
  const auto text = error(line("1", "10"));
  EXPECT_EQ(text.what, "Line 1 has a bad value in column 65");
  EXPECT_EQ(text.expected, "a whole number from 0 to 9");
}

TEST_F(DigitsData, ANumberThatIsNotWhole) { EXPECT_EQ(error(line("1.5", "2")).what, "Line 1 is too short"); }

TEST_F(DigitsData, AnotherKindOfFileDoesNotReachTheTerminalAsItIs) {
  EXPECT_EQ(error("\x7f\x45LF\x01\x1b[31m").got, "\"?ELF??[31m\"");
}

}  // namespace
