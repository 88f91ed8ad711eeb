#include "accelerate/data/collate.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace accelerate {

namespace {

struct Inner {
  at::Tensor a;
  std::vector<at::Tensor> list;
};
struct Outer {
  Inner inner;
  std::optional<at::Tensor> maybe;
  std::map<std::string, at::Tensor> named;
  std::array<at::Tensor, 2> pair;
};

/// A class that keeps its tensors to itself.
class Ragged {
 public:
  explicit Ragged(std::vector<at::Tensor> parts) : parts_(std::move(parts)) {}
  std::vector<at::Tensor>& parts() { return parts_; }

 private:
  std::vector<at::Tensor> parts_;
};

enum class Kind { kImage, kLabel };

}  // namespace

template <>
struct Flatten<Ragged> {
  template <class V>
  static void for_each(Ragged& value, V&& visit) {
    for (at::Tensor& part : value.parts()) visit(part);
  }
};

namespace {

using support::same_bytes;
using support::ThrowsError;

at::Tensor number(int64_t value) { return at::full({}, value, at::kLong); }

RC_GTEST_PROP(Collate, RowIOfTheBatchIsExampleI, ()) {
  const auto count = *rc::gen::inRange<size_t>(1, 10);
  const auto rank = *rc::gen::inRange<size_t>(0, 4);
  const auto shape = *rc::gen::container<std::vector<int64_t>>(rank, rc::gen::inRange<int64_t>(0, 4));
  const auto dtype = *rc::gen::element(at::kFloat, at::kDouble, at::kLong, at::kByte, at::kBool, at::kBFloat16);
  std::vector<at::Tensor> examples;
  for (size_t i = 0; i < count; ++i)
    examples.push_back(at::randint(100, shape, at::TensorOptions(at::kLong)).to(dtype));
  const at::Tensor batch = collate(examples);
  RC_ASSERT(batch.size(0) == static_cast<int64_t>(count));
  RC_ASSERT(batch.dim() == static_cast<int64_t>(shape.size()) + 1);
  for (size_t i = 0; i < count; ++i) {
    RC_ASSERT(static_cast<bool>(same_bytes(batch[static_cast<int64_t>(i)], examples[i])));
  }
}

TEST(Collate, EveryTensorOfANestedExampleIsStackedInItsPlace) {
  const auto example = [](int64_t i) {
    return Outer{.inner = {.a = number(i), .list = {number(10 + i), number(20 + i)}},
                 .maybe = number(30 + i),
                 .named = {{"x", number(40 + i)}, {"y", number(50 + i)}},
                 .pair = {number(60 + i), number(70 + i)}};
  };
  Outer batch = collate(std::vector<Outer>{example(0), example(1), example(2)});
  const auto is = [](const at::Tensor& tensor, int64_t first) {
    return support::integers(tensor) == std::vector<int64_t>{first, first + 1, first + 2};
  };
  EXPECT_TRUE(is(batch.inner.a, 0));
  ASSERT_EQ(batch.inner.list.size(), 2U);
  EXPECT_TRUE(is(batch.inner.list[0], 10));
  EXPECT_TRUE(is(batch.inner.list[1], 20));
  ASSERT_TRUE(batch.maybe.has_value());
  EXPECT_TRUE(is(*batch.maybe, 30));
  ASSERT_EQ(batch.named.size(), 2U);
  EXPECT_TRUE(is(batch.named.at("x"), 40));
  EXPECT_TRUE(is(batch.named.at("y"), 50));
  EXPECT_TRUE(is(batch.pair[0], 60));
  EXPECT_TRUE(is(batch.pair[1], 70));
}

TEST(Collate, AnOptionalThatNoExampleHasStaysEmpty) {
  using Example = std::pair<at::Tensor, std::optional<at::Tensor>>;
  const Example batch = collate(std::vector<Example>{{number(1), {}}, {number(2), {}}});
  EXPECT_EQ(support::integers(batch.first), (std::vector<int64_t>{1, 2}));
  EXPECT_FALSE(batch.second.has_value());
}

TEST(Collate, TheExamplesOwnTensorsAreNotChanged) {
  const at::Tensor a = number(1);
  at::Tensor batch = collate(std::vector<at::Tensor>{a, number(2)});
  batch.zero_();
  EXPECT_EQ(a.item<int64_t>(), 1);
  EXPECT_EQ(a.dim(), 0);
}

// Errors: each names the example and the tensor.

TEST(CollateErrors, Shapes) {
  const std::vector<at::Tensor> examples{at::zeros({2, 3}), at::zeros({2, 3}), at::zeros({2, 4})};
  EXPECT_THAT([&] { collate(examples); }, ThrowsError<DataError>({.place = "DataLoader",
                                                                  .what = "cannot be stacked",
                                                                  .got = "Float [2, 4] as tensor 0 of example 2",
                                                                  .expected = "Float [2, 3] as in example 0",
                                                                  .remedy = "pass a collate function"}));
}

TEST(CollateErrors, Dtypes) {
  using Example = std::pair<at::Tensor, at::Tensor>;
  const std::vector<Example> examples{{at::zeros({2}), number(1)}, {at::zeros({2}), number(1).to(at::kInt)}};
  EXPECT_THAT([&] { collate(examples); }, ThrowsError<DataError>({.place = "DataLoader",
                                                                  .what = "cannot be stacked",
                                                                  .got = "Int [] as tensor 1 of example 1",
                                                                  .expected = "Long [] as in example 0",
                                                                  .remedy = "one shape and dtype"}));
}

TEST(CollateErrors, UndefinedTensors) {
  for (const size_t position : {0U, 1U}) {
    std::vector<at::Tensor> examples{at::zeros({2}), at::zeros({2})};
    examples[position] = at::Tensor();
    EXPECT_THAT([&] { collate(examples); },
                ThrowsError<DataError>({.place = "DataLoader",
                                        .what = "cannot be stacked",
                                        .got = "an undefined tensor as tensor 0 of example " + std::to_string(position),
                                        .expected = position == 0 ? "a defined tensor" : "Float [2] as in example 0",
                                        .remedy = "one shape and dtype"}));
  }
}

template <class Example>
auto differ_in_structure(Example first, Example second, const std::string& expected, const std::string& got) {
  const std::vector<Example> examples{first, first, second};
  EXPECT_THAT([&] { collate(examples); }, ThrowsError<DataError>({.place = "DataLoader",
                                                                  .what = "differ in keys, lengths or optional parts",
                                                                  .got = "\"" + got + "\" in example 2",
                                                                  .expected = "\"" + expected + "\" as in example 0",
                                                                  .remedy = "Give all examples one structure"}));
}

TEST(CollateErrors, Lengths) {
  using List = std::vector<at::Tensor>;
  differ_in_structure(List{number(1), number(2)}, List{number(1)}, "[tt]", "[t]");
  differ_in_structure(List{number(1)}, List{number(1), number(2)}, "[t]", "[tt]");
  differ_in_structure(std::vector<List>{{number(1)}, {}}, std::vector<List>{{}, {number(1)}}, "[[t][]]", "[[][t]]");
}

TEST(CollateErrors, TextKeys) {
  using Map = std::map<std::string, at::Tensor>;
  differ_in_structure(Map{{"a", number(1)}}, Map{{"b", number(1)}}, "{a:t}", "{b:t}");
  differ_in_structure(Map{{"a", number(1)}, {"b", number(1)}}, Map{{"a", number(1)}}, "{a:tb:t}", "{a:t}");
}

TEST(CollateErrors, NumberAndEnumeratorKeys) {
  using Numbered = std::map<int64_t, at::Tensor>;
  differ_in_structure(Numbered{{7, number(1)}}, Numbered{{8, number(1)}}, "{7:t}", "{8:t}");
  using Kinds = std::map<Kind, at::Tensor>;
  differ_in_structure(Kinds{{Kind::kImage, number(1)}}, Kinds{{Kind::kLabel, number(1)}}, "{0:t}", "{1:t}");
}

TEST(CollateErrors, OptionalParts) {
  using Maybe = std::optional<at::Tensor>;
  differ_in_structure(Maybe{number(1)}, Maybe{}, "?t", "-");
  differ_in_structure(Maybe{}, Maybe{number(1)}, "-", "?t");
}

TEST(CollateErrors, TensorsThatACustomTypeVisits) {
  differ_in_structure(Ragged({number(1), number(2)}), Ragged({number(1)}), "(tt)", "(t)");
  differ_in_structure(Ragged({number(1)}), Ragged({number(1), number(2)}), "(t)", "(tt)");
}

// Whatever the lists' lengths are: a batch, or an error; never one with examples left out.
RC_GTEST_PROP(Collate, NoExampleIsLeftOutSilently, ()) {
  const auto lengths = *rc::gen::nonEmpty(rc::gen::container<std::vector<size_t>>(rc::gen::inRange<size_t>(0, 3)));
  std::vector<std::vector<at::Tensor>> lists;
  std::vector<Ragged> ragged;
  for (const size_t length : lengths) {
    lists.emplace_back(length, number(1));
    ragged.emplace_back(std::vector<at::Tensor>(length, number(1)));
  }
  const bool equal = std::all_of(lengths.begin(), lengths.end(), [&](size_t l) { return l == lengths[0]; });
  const auto count = static_cast<int64_t>(lengths.size());
  try {
    const auto batch = collate(lists);
    Ragged own = collate(ragged);
    RC_ASSERT(equal);
    RC_ASSERT(batch.size() == lengths[0] && own.parts().size() == lengths[0]);
    for (const at::Tensor& tensor : batch) RC_ASSERT(tensor.size(0) == count);
    for (const at::Tensor& tensor : own.parts()) RC_ASSERT(tensor.size(0) == count);
  } catch (const DataError&) {
    RC_ASSERT(!equal);
    RC_ASSERT_THROWS_AS(collate(ragged), DataError);
  }
}

static_assert(internal::stackable<at::Tensor>());
static_assert(internal::stackable<Outer>());
static_assert(internal::stackable<Ragged>());
static_assert(internal::stackable<std::tuple<at::Tensor, std::pair<at::Tensor, std::vector<at::Tensor>>>>());
static_assert(!internal::stackable<int64_t>());
static_assert(!internal::stackable<std::string>());
static_assert(!internal::stackable<std::tuple<at::Tensor, int>>());
static_assert(!internal::stackable<std::map<std::string, float>>());
static_assert(!internal::stackable<std::vector<std::string>>());

}  // namespace
}  // namespace accelerate
