#include "accelerate/core/fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <sstream>

#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::ThrowsError;
using ::testing::ElementsAre;

Fields some_fields() {
  Fields fields;
  fields.add({"device", "cpu", "default"});
  fields.add({"mixed_precision", "bf16", "argument"});
  fields.add({"n", "a longer value", "environment N"});
  return fields;
}

TEST(Fields, AFieldIsFoundByItsName) {
  const Fields fields = some_fields();
  EXPECT_EQ(fields.at("mixed_precision").value, "bf16");
  EXPECT_EQ(fields.at("mixed_precision").source, "argument");
  EXPECT_EQ(fields.at("n").value, "a longer value");
}

TEST(Fields, TheyStayInTheOrderInWhichTheyWereAdded) {
  std::vector<std::string> names;
  const Fields fields = some_fields();
  for (const Field& field : fields.all()) names.push_back(field.name);
  EXPECT_THAT(names, ElementsAre("device", "mixed_precision", "n"));
}

TEST(Fields, AnUnknownNameIsAnsweredWithTheKnownOnes) {
  const Fields fields = some_fields();
  EXPECT_THAT([&] { fields.at("devise"); }, ThrowsError<UsageError>({.place = "plan",
                                                                     .what = "no such field",
                                                                     .got = "\"devise\"",
                                                                     .expected = "device, mixed_precision, n",
                                                                     .remedy = "name"}));
}

TEST(Fields, AnEmptyListKnowsNothing) {
  const Fields fields;
  EXPECT_THROW(fields.at("device"), UsageError);
  EXPECT_EQ(fields.text(), "");
}

TEST(Fields, TextIsAlignedInThreeColumns) {
  EXPECT_EQ(some_fields().text(),
            "device           cpu             (default)\n"
            "mixed_precision  bf16            (argument)\n"
            "n                a longer value  (environment N)\n");
}

TEST(Fields, PrintingGivesTheText) {
  std::ostringstream out;
  out << some_fields() << "end";
  EXPECT_EQ(out.str(), some_fields().text() + "end");
}

RC_GTEST_PROP(FieldsProperty, ColumnsBeginAtTheSamePlaceInEveryLine, ()) {
  const auto word = rc::gen::container<std::string>(rc::gen::inRange('a', 'z'));
  const auto rows =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<std::tuple<std::string, std::string, std::string>>>(
          rc::gen::tuple(word, word, word)));
  Fields fields;
  size_t name_width = 0, value_width = 0;
  for (const auto& [name, value, source] : rows) {
    fields.add({name, value, source});
    name_width = std::max(name_width, name.size());
    value_width = std::max(value_width, value.size());
  }
  std::istringstream lines(fields.text());
  std::string line;
  for (const auto& [name, value, source] : rows) {
    RC_ASSERT(static_cast<bool>(std::getline(lines, line)));
    RC_ASSERT(line.substr(0, name.size()) == name);
    RC_ASSERT(line.substr(name_width + 2, value.size()) == value);
    RC_ASSERT(line.substr(name_width + value_width + 4) == "(" + source + ")");
  }
  RC_ASSERT(!std::getline(lines, line));
}

}  // namespace
}  // namespace accelerate
