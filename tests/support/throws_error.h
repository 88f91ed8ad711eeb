#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "accelerate/core/error.h"

namespace accelerate {

/// How GoogleTest shows the parts.
inline void PrintTo(const ErrorText& text, std::ostream* out) { *out << '"' << Error(text).what() << '"'; }

namespace support {

/// Matches a callable that throws `E` and says what it should: `place` is equal, every other part contains what `said`
/// has for it, and none of them is empty. The text that users read is checked to be composed of these parts.
///
///   EXPECT_THAT([&] { load(path); }, ThrowsError<DataError>({.place = path, .what = "too short", .got = "3 bytes",
///                                                            .expected = "at least 8", .remedy = "copy it again"}));
template <class E>
auto ThrowsError(const ErrorText& said) {
  using ::testing::AllOf;
  using ::testing::EndsWith;
  using ::testing::Field;
  using ::testing::HasSubstr;
  using ::testing::IsEmpty;
  using ::testing::Not;
  using ::testing::Property;
  using ::testing::StartsWith;
  const auto contains = [](const std::string& part) {
    return AllOf(Not(IsEmpty()), HasSubstr(part), Not(EndsWith(".")));
  };
  const auto parts =
      AllOf(Field("place", &ErrorText::place, said.place), Field("what", &ErrorText::what, contains(said.what)),
            Field("got", &ErrorText::got, contains(said.got)),
            Field("expected", &ErrorText::expected, contains(said.expected)),
            Field("remedy", &ErrorText::remedy, contains(said.remedy)));
  const auto message =
      AllOf(StartsWith("[" + said.place + "] "), HasSubstr(": got "), HasSubstr(", expected "), EndsWith("."));
  return ::testing::Throws<E>(
      AllOf(Property("text", &Error::text, parts), Property("what", &std::exception::what, message)));
}

}  // namespace support
}  // namespace accelerate
