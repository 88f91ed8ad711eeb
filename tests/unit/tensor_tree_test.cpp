#include "accelerate/tensor/tree.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace accelerate {
namespace {

struct Empty {};
struct Inner {
  at::Tensor a;
  int64_t count = 7;
  at::Tensor b;
};
struct Outer {
  std::string name = "outer";
  Inner inner;
  std::vector<Inner> more;
  std::optional<at::Tensor> maybe;
  std::variant<std::monostate, at::Tensor, Inner> either;
  std::array<at::Tensor, 2> pair;
};
struct MoveOnly {
  std::unique_ptr<int> owner;
};

/// Opaque without the specialisation below: it has a constructor of its own.
class Box {
 public:
  explicit Box(at::Tensor tensor) : tensor_(std::move(tensor)) {}
  at::Tensor& tensor() { return tensor_; }

 private:
  at::Tensor tensor_;
};
class Opaque {
 public:
  explicit Opaque(int) {}
};
}  // namespace

template <>
struct Flatten<Box> {
  template <class V>
  static void for_each(Box& box, V&& visit) {
    visit(box.tensor());
  }
};

namespace {

using internal::for_each_tensor;

at::Tensor number(int64_t value) { return at::full({}, value, at::kLong); }

template <class T>
std::vector<int64_t> visited(T& value) {
  std::vector<int64_t> out;
  for_each_tensor(value, [&](auto& tensor) { out.push_back(tensor.defined() ? tensor.template item<int64_t>() : -1); });
  return out;
}

using Numbers = std::vector<int64_t>;

TEST(Tree, ATensorIsVisitedOnce) {
  at::Tensor tensor = number(3);
  EXPECT_EQ(visited(tensor), Numbers({3}));
}

TEST(Tree, UndefinedTensorsAreVisitedToo) {
  std::pair<at::Tensor, at::Tensor> pair{at::Tensor(), number(1)};
  EXPECT_EQ(visited(pair), Numbers({-1, 1}));
}

TEST(Tree, OrderIsThatOfTheFieldsElementsAndKeys) {
  auto tuple =
      std::make_tuple(number(1), 2, std::vector{number(3), number(4)}, std::string("text"), std::pair{number(5), 6.0});
  EXPECT_EQ(visited(tuple), Numbers({1, 3, 4, 5}));
  std::map<std::string, at::Tensor> map{{"z", number(3)}, {"a", number(1)}, {"m", number(2)}};
  EXPECT_EQ(visited(map), Numbers({1, 2, 3}));
  std::list<at::Tensor> list{number(1), number(2)};
  EXPECT_EQ(visited(list), Numbers({1, 2}));
  std::deque<std::array<at::Tensor, 1>> deque{{number(4)}, {number(5)}};
  EXPECT_EQ(visited(deque), Numbers({4, 5}));
}

TEST(Tree, ANestedStructIsVisitedFieldByField) {
  Outer outer;
  outer.inner = {number(1), 7, number(2)};
  outer.more = {{number(3), 7, number(4)}, {number(5), 7, number(6)}};
  outer.maybe = number(7);
  outer.either = Inner{number(8), 7, number(9)};
  outer.pair = {number(10), number(11)};
  EXPECT_EQ(visited(outer), Numbers({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  outer.maybe.reset();
  outer.either = number(12);
  outer.more.clear();
  EXPECT_EQ(visited(outer), Numbers({1, 2, 12, 10, 11}));
  outer.either = std::monostate();
  EXPECT_EQ(visited(outer), Numbers({1, 2, 10, 11}));
}

TEST(Tree, VisitsChangeTheValueItself) {
  Outer outer;
  outer.inner = {number(1), 7, number(2)};
  outer.either = number(3);
  outer.pair = {number(4), number(5)};
  for_each_tensor(outer, [](at::Tensor& tensor) { tensor = tensor * 10; });
  EXPECT_EQ(visited(outer), Numbers({10, 20, 30, 40, 50}));
  EXPECT_EQ(outer.inner.count, 7);
  EXPECT_EQ(outer.name, "outer");
}

TEST(Tree, AnOwnTypeIsVisitedThroughFlatten) {
  std::vector<Box> boxes{Box(number(1)), Box(number(2))};
  EXPECT_EQ(visited(boxes), Numbers({1, 2}));
}

TEST(Tree, AConstantValueCanBeRead) {
  const std::tuple<at::Tensor, std::vector<at::Tensor>, Inner> value{number(1), {number(2)}, {number(3), 0, number(4)}};
  EXPECT_EQ(visited(value), Numbers({1, 2, 3, 4}));
}

TEST(Tree, ValuesWithoutTensorsAreLeftAlone) {
  auto value = std::make_tuple(1, 2.5, std::string("text"), std::vector<std::string>{"a"}, Empty{});
  EXPECT_EQ(visited(value), Numbers());
}

RC_GTEST_PROP(Tree, AListOfListsIsVisitedLikeItsConcatenation, (std::vector<std::vector<uint8_t>> numbers)) {
  std::vector<std::vector<at::Tensor>> tensors;
  Numbers flat;
  for (const auto& row : numbers) {
    tensors.emplace_back();
    for (const uint8_t value : row) {
      tensors.back().push_back(number(value));
      flat.push_back(value);
    }
  }
  RC_ASSERT(visited(tensors) == flat);
}

TEST(TensorVisitor, CallsWhatItBorrows) {
  int calls = 0;
  at::Tensor tensor = number(1);
  auto count = [&](at::Tensor& visited_tensor) {
    ++calls;
    visited_tensor = number(2);
  };
  const internal::TensorVisitor visitor(count);
  const internal::TensorVisitor copy = visitor;
  copy(tensor);
  visitor(tensor);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(tensor.item<int64_t>(), 2);
}

// What the library accepts is decided from the type alone.
using internal::Flattenable;
static_assert(Flattenable<at::Tensor>);
static_assert(Flattenable<const at::Tensor&>);
static_assert(Flattenable<Outer>);
static_assert(Flattenable<Empty>);
static_assert(Flattenable<Box>);
static_assert(Flattenable<std::vector<Box>>);
static_assert(Flattenable<std::unordered_map<std::string, std::vector<at::Tensor>>>);
static_assert(Flattenable<std::variant<at::Tensor, std::vector<at::Tensor>>>);
static_assert(Flattenable<std::optional<std::pair<at::Tensor, float>>>);
static_assert(Flattenable<std::vector<std::string>>);
static_assert(Flattenable<const char*>);
static_assert(!Flattenable<Opaque>);
static_assert(!Flattenable<std::vector<Opaque>>);
static_assert(!Flattenable<std::tuple<at::Tensor, Opaque>>);
static_assert(!Flattenable<std::map<std::string, Opaque>>);
static_assert(!Flattenable<std::optional<Opaque>>);
static_assert(!Flattenable<std::variant<at::Tensor, Opaque>>);
static_assert(!Flattenable<MoveOnly>);
static_assert(!Flattenable<std::shared_ptr<at::Tensor>>);
static_assert(!Flattenable<at::Tensor*>);
static_assert(!Flattenable<void*>);

}  // namespace
}  // namespace accelerate
