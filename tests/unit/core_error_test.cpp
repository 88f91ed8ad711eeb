#include "accelerate/core/error.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <stdexcept>
#include <string>
#include <type_traits>

namespace accelerate {
namespace {

TEST(ErrorText, AllPartsMakeOneSentenceAndARemedy) {
  const DataError error(
      {.place = "DataLoader", .what = "The batch is wrong", .got = "3", .expected = "4", .remedy = "Use 4"});
  EXPECT_STREQ(error.what(), "[DataLoader] The batch is wrong: got 3, expected 4. Use 4.");
}

TEST(ErrorText, EmptyPartsLeaveNoTrace) {
  EXPECT_STREQ(UsageError({.place = "a", .what = "b"}).what(), "[a] b.");
  EXPECT_STREQ(UsageError({.place = "a", .what = "b", .got = "c"}).what(), "[a] b: got c.");
  EXPECT_STREQ(UsageError({.place = "a", .what = "b", .expected = "c"}).what(), "[a] b: expected c.");
  EXPECT_STREQ(UsageError({.place = "a", .what = "b", .remedy = "C"}).what(), "[a] b. C.");
  EXPECT_STREQ(UsageError({.place = "a", .what = "b", .got = "c", .remedy = "D"}).what(), "[a] b: got c. D.");
}

RC_GTEST_PROP(ErrorTextProperty, EveryPartThatIsGivenIsInTheMessage, ()) {
  const auto part = rc::gen::container<std::string>(rc::gen::inRange(' ', '~'));
  const ErrorText text{.place = *part, .what = *part, .got = *part, .expected = *part, .remedy = *part};
  const std::string message = Error(text).what();
  const auto has = [&](const std::string& words) { return message.find(words) != std::string::npos; };
  RC_ASSERT(message.rfind("[" + text.place + "] " + text.what, 0) == 0U);
  RC_ASSERT(text.got.empty() || has(": got " + text.got));
  RC_ASSERT(text.expected.empty() || has("expected " + text.expected + "."));
  RC_ASSERT(text.remedy.empty() || has(". " + text.remedy + "."));
  RC_ASSERT(message.back() == '.');
}

TEST(ErrorText, ThePartsStayReadable) {
  const ConfigError error({.place = "a", .what = "b", .got = "c", .expected = "d", .remedy = "e"});
  EXPECT_EQ(error.text().place, "a");
  EXPECT_EQ(error.text().what, "b");
  EXPECT_EQ(error.text().got, "c");
  EXPECT_EQ(error.text().expected, "d");
  EXPECT_EQ(error.text().remedy, "e");
}

TEST(ErrorText, CopiesSayTheSame) {
  const CommError error({.place = "a", .what = "b"});
  const CommError copy = error;
  EXPECT_STREQ(copy.what(), error.what());
  EXPECT_EQ(copy.text().place, error.text().place);
}

template <class E>
class ErrorKinds : public ::testing::Test {};
using Kinds = ::testing::Types<ConfigError, UsageError, DataError, CommError>;
TYPED_TEST_SUITE(ErrorKinds, Kinds);

TYPED_TEST(ErrorKinds, IsCaughtAsErrorAndAsRuntimeErrorOnly) {
  const auto raise = [] { throw TypeParam({.place = "here", .what = "Something"}); };
  EXPECT_THROW(raise(), TypeParam);
  EXPECT_THROW(raise(), Error);
  EXPECT_THROW(raise(), std::runtime_error);
  constexpr int related = std::is_base_of_v<ConfigError, TypeParam> + std::is_base_of_v<UsageError, TypeParam> +
                          std::is_base_of_v<DataError, TypeParam> + std::is_base_of_v<CommError, TypeParam>;
  EXPECT_EQ(related, 1) << "a handler for one kind must not catch another";
}

}  // namespace
}  // namespace accelerate
