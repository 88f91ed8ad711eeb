#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/faults/processes.h"

namespace accelerate::faults {

/// The one paragraph in which a rank says why it ended. Fails the test if there is another number of them, if anything
/// else but lines of log is written, or if the rank did not end by itself.
inline std::string paragraph(const Ended& ended) {
  EXPECT_FALSE(ended.by_us) << "it did not end by itself:\n" << ended.text;
  EXPECT_FALSE(ended.leftover) << "it left processes behind";
  std::string found;
  for (const std::string& line : lines(ended.text)) {
    if (line.starts_with("accelerate: [rank ")) continue;
    EXPECT_TRUE(line.starts_with("error on rank ")) << "noise: " << line;
    EXPECT_EQ(found, "") << "a second one: " << line;
    found = line;
  }
  EXPECT_NE(found, "") << "it said nothing; exit code " << ended.exit_code;
  return found;
}

/// The paragraph of a rank that also ended with exit code 1.
inline std::string failure(const Ended& ended) {
  EXPECT_EQ(ended.exit_code, 1) << ended.text;
  return paragraph(ended);
}

}  // namespace accelerate::faults
