#include "accelerate/core/env.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <stdlib.h>

#include <cctype>
#include <charconv>
#include <limits>
#include <utility>

#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::ThrowsError;

Environment with(std::map<std::string, std::string> variables) { return Environment(std::move(variables)); }

TEST(Environment, WhatIsNotSetIsNothing) {
  const Environment environment = with({});
  EXPECT_FALSE(environment.text("A").has_value());
  EXPECT_FALSE(environment.integer("A").has_value());
  EXPECT_FALSE(environment.flag("A").has_value());
}

TEST(Environment, AnEmptyVariableIsSet) {
  const Environment environment = with({{"A", ""}});
  EXPECT_EQ(environment.text("A"), "");
  EXPECT_THROW(environment.integer("A"), ConfigError);
  EXPECT_THROW(environment.flag("A"), ConfigError);
}

TEST(Environment, NamesAreCaseSensitive) {
  const Environment environment = with({{"Name", "1"}});
  EXPECT_FALSE(environment.text("NAME").has_value());
  EXPECT_EQ(environment.text("Name"), "1");
}

RC_GTEST_PROP(EnvironmentProperty, TextComesBackAsItIs, (std::map<std::string, std::string> variables)) {
  const Environment environment = with(variables);
  for (const auto& [name, value] : variables) RC_ASSERT(environment.text(name) == value);
}

RC_GTEST_PROP(EnvironmentProperty, IntegersComeBack, (int64_t number)) {
  RC_ASSERT(with({{"N", std::to_string(number)}}).integer("N") == number);
}

TEST(Environment, TheWholeRangeOfIntegersIsRead) {
  for (const int64_t number : {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), int64_t{0}}) {
    EXPECT_EQ(with({{"N", std::to_string(number)}}).integer("N"), number);
  }
}

RC_GTEST_PROP(EnvironmentProperty, IntegerReadsTheWholeTextOrNothing, (std::string text)) {
  const Environment environment = with({{"N", text}});
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  try {
    RC_ASSERT(environment.integer("N") == number);
    RC_ASSERT(whole);
  } catch (const ConfigError&) {
    RC_ASSERT(!whole);
  }
}

TEST(Environment, WhatIsNoIntegerIsRefusedWithTheVariableAndItsValue) {
  for (const std::string value : {"", " ", "1 ", " 1", "+1", "1.0", "1e3", "0x10", "two", "--1", "1,000", "1\n",
                                  "9223372036854775808", "-9223372036854775809"}) {
    const Environment environment = with({{"STEPS", value}});
    EXPECT_THAT([&] { environment.integer("STEPS"); }, ThrowsError<ConfigError>({.place = "STEPS",
                                                                                 .what = "not an integer",
                                                                                 .got = "\"" + value + "\"",
                                                                                 .expected = "STEPS=1",
                                                                                 .remedy = "unset it"}));
  }
}

TEST(Environment, FlagsFollowTheOriginalsWords) {
  for (const std::string word : {"y", "yes", "t", "true", "on", "1"}) {
    EXPECT_EQ(with({{"F", word}}).flag("F"), true) << word;
  }
  for (const std::string word : {"n", "no", "f", "false", "off", "0"}) {
    EXPECT_EQ(with({{"F", word}}).flag("F"), false) << word;
  }
}

RC_GTEST_PROP(EnvironmentProperty, FlagsTakeAnyCase, ()) {
  const auto word = *rc::gen::element<std::string>("y", "yes", "t", "true", "on", "n", "no", "f", "false", "off");
  const auto upper = *rc::gen::container<std::vector<bool>>(word.size(), rc::gen::arbitrary<bool>());
  std::string mixed = word;
  for (size_t i = 0; i < mixed.size(); ++i) {
    if (upper[i]) mixed[i] = static_cast<char>(std::toupper(mixed[i]));
  }
  RC_ASSERT(with({{"F", mixed}}).flag("F") == with({{"F", word}}).flag("F"));
}

TEST(Environment, WhatIsNoFlagIsRefusedWithTheVariableAndItsValue) {
  for (const std::string value : {"", "2", "-1", "maybe", "yess", " yes", "true ", "\xff"}) {
    const Environment environment = with({{"USE_IT", value}});
    EXPECT_THAT([&] { environment.flag("USE_IT"); }, ThrowsError<ConfigError>({.place = "USE_IT",
                                                                               .what = "not a yes or no",
                                                                               .got = "\"" + value + "\"",
                                                                               .expected = "true on 1",
                                                                               .remedy = "unset it"}));
  }
}

TEST(Environment, OfProcessIsACopyOfWhatTheProcessHas) {
  ASSERT_EQ(::setenv("ACCELERATE_TEST_VARIABLE", "a=b", 1), 0);
  const Environment before = Environment::of_process();
  ASSERT_EQ(::setenv("ACCELERATE_TEST_VARIABLE", "later", 1), 0);
  EXPECT_EQ(before.text("ACCELERATE_TEST_VARIABLE"), "a=b");
  EXPECT_EQ(Environment::of_process().text("ACCELERATE_TEST_VARIABLE"), "later");
  ASSERT_EQ(::unsetenv("ACCELERATE_TEST_VARIABLE"), 0);
  EXPECT_FALSE(Environment::of_process().text("ACCELERATE_TEST_VARIABLE").has_value());
  EXPECT_EQ(before.text("ACCELERATE_TEST_VARIABLE"), "a=b");
}

}  // namespace
}  // namespace accelerate
