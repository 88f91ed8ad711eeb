#include "accelerate/core/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::ThrowsError;
using ::testing::IsNull;
using ::testing::NotNull;

struct Entry {
  std::string name;
  int value = 0;
};

TEST(Registry, EntriesAreFoundByName) {
  const Registry<Entry> registry("thing", {{"a", 1}, {"b", 2}});
  ASSERT_THAT(registry.find("b"), NotNull());
  EXPECT_EQ(registry.find("b")->value, 2);
  EXPECT_THAT(registry.find("c"), IsNull());
  EXPECT_THAT(registry.find(""), IsNull());
  EXPECT_THAT(registry.find("A"), IsNull());
}

TEST(Registry, NamesAreListedInTheOrderGiven) {
  Registry<Entry> registry("thing", {{"b"}, {"a"}});
  EXPECT_EQ(registry.names(), "\"b\", \"a\"");
  registry.add({"c"});
  EXPECT_EQ(registry.names(), "\"b\", \"a\", \"c\"");
  EXPECT_EQ(Registry<Entry>("thing", {}).names(), "");
}

TEST(Registry, ASecondEntryOfANameIsRefusedAndTheFirstStays) {
  Registry<Entry> registry("thing", {{"a", 1}, {"b", 2}});
  EXPECT_THAT(
      [&] {
        registry.add(Entry{"a", 3});
      },
      ThrowsError<ConfigError>({.place = "extensions",
                                .what = "the same name",
                                .got = "thing \"a\" twice",
                                .expected = "\"a\", \"b\"",
                                .remedy = "Rename"}));
  EXPECT_EQ(registry.find("a")->value, 1);
  EXPECT_EQ(registry.all().size(), 2U);
}

TEST(Registry, TheListItIsMadeFromMustNotRepeatNamesEither) {
  EXPECT_THROW(Registry<Entry>("thing", {{"a"}, {"a"}}), ConfigError);
}

RC_GTEST_PROP(RegistryProperty, HoldsExactlyTheDistinctNamesItWasGiven, (std::vector<std::string> names)) {
  Registry<Entry> registry("thing", {});
  std::set<std::string> distinct;
  for (const std::string& name : names) {
    if (distinct.insert(name).second) {
      registry.add({name});
    } else {
      RC_ASSERT_THROWS_AS(registry.add({name}), ConfigError);
    }
  }
  RC_ASSERT(registry.all().size() == distinct.size());
  for (const std::string& name : distinct)
    RC_ASSERT(registry.find(name) != nullptr && registry.find(name)->name == name);
}

}  // namespace
}  // namespace accelerate
