// Changes to the environment that end with a guard. Tables: upstream's tests/test_utils.py.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <stdlib.h>

#include <map>
#include <optional>
#include <stdexcept>
#include <string>

#include "accelerate/core/env.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::ThrowsError;

std::optional<std::string> value_of(const char* name) { return Environment::of_process().text(name); }

TEST(PatchEnvironment, TableOfTheOriginal) {
  {
    const EnvironmentScope outer = patch_environment({{"aa", "1"}, {"BB", "2"}});
    EXPECT_EQ(value_of("AA"), "1");
    EXPECT_EQ(value_of("BB"), "2");
    {
      const EnvironmentScope inner = patch_environment({{"Aa", "10"}, {"bb", "20"}, {"cC", "30"}});
      EXPECT_EQ(value_of("AA"), "10");
      EXPECT_EQ(value_of("BB"), "20");
      EXPECT_EQ(value_of("CC"), "30");
    }
    EXPECT_EQ(value_of("AA"), "1");
    EXPECT_EQ(value_of("BB"), "2");
    EXPECT_FALSE(value_of("CC"));
  }
  EXPECT_FALSE(value_of("AA"));
  EXPECT_FALSE(value_of("BB"));
}

TEST(PatchEnvironment, EndsWithAnExceptionAndWithTheGuardThatWasMovedTo) {
  try {
    const EnvironmentScope scope = patch_environment({{"AA", "1"}});
    throw std::runtime_error("in between");
  } catch (const std::runtime_error&) {
    EXPECT_FALSE(value_of("AA"));
  }
  std::optional<EnvironmentScope> moved;
  {
    EnvironmentScope scope = patch_environment({{"AA", "1"}});
    moved.emplace(std::move(scope));
  }
  EXPECT_EQ(value_of("AA"), "1");
  moved.reset();
  EXPECT_FALSE(value_of("AA"));
}

TEST(PatchEnvironment, ANameThatIsNoneChangesNothing) {
  EXPECT_THAT(
      [] {
        static_cast<void>(patch_environment({{"AA", "1"}, {"b=", "2"}}));
      },
      ThrowsError<ConfigError>({.place = "patch_environment",
                                .what = "no name",
                                .got = "\"b=\"",
                                .expected = "without =",
                                .remedy = "Correct"}));
  EXPECT_FALSE(value_of("AA"));
  EXPECT_THROW(static_cast<void>(patch_environment({{"", "2"}})), ConfigError);
}

RC_GTEST_PROP(PatchEnvironment, LeavesEverythingAsItWas, ()) {
  const auto name = rc::gen::element<std::string>("ACCELERATE_T1", "T2", "t2", "accelerate_t1", "T3");
  const auto before = Environment::of_process().all();
  {
    const EnvironmentScope outer = patch_environment(
        *rc::gen::container<std::map<std::string, std::string>>(name, rc::gen::element<std::string>("x", "y", "")));
    const auto between = Environment::of_process().all();
    {
      const EnvironmentScope inner = *rc::gen::arbitrary<bool>() ? clear_environment() : purge_accelerate_environment();
      ::setenv("ACCELERATE_T1", "other", 1);
      ::unsetenv("ACCELERATE_T4");
    }
    RC_ASSERT(Environment::of_process().all() == between);
  }
  RC_ASSERT(Environment::of_process().all() == before);
}

TEST(ClearEnvironment, NothingIsLeftUntilItEnds) {
  ::setenv("T_BEFORE", "1", 1);
  {
    const EnvironmentScope scope = clear_environment();
    EXPECT_TRUE(Environment::of_process().all().empty());
    ::setenv("T_BETWEEN", "2", 1);
  }
  EXPECT_EQ(value_of("T_BEFORE"), "1");
  EXPECT_FALSE(value_of("T_BETWEEN"));
  ::unsetenv("T_BEFORE");
}

TEST(PurgeAccelerateEnvironment, OthersStay) {
  ::setenv("ACCELERATE_T1", "before", 1);
  {
    const EnvironmentScope scope = purge_accelerate_environment();
    EXPECT_EQ(value_of("ACCELERATE_T1"), "before") << "it changes nothing itself";
    ::setenv("ACCELERATE_T1", "changed", 1);
    ::setenv("ACCELERATE_T2", "new", 1);
    ::setenv("OTHER_T3", "new", 1);
  }
  EXPECT_EQ(value_of("ACCELERATE_T1"), "before");
  EXPECT_FALSE(value_of("ACCELERATE_T2"));
  EXPECT_EQ(value_of("OTHER_T3"), "new");
  ::unsetenv("ACCELERATE_T1");
  ::unsetenv("OTHER_T3");
}

}  // namespace
}  // namespace accelerate
