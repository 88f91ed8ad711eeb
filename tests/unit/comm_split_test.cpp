// split_between_processes: every element exactly once, in the order of ranks, for whatever can be shared out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include <deque>
#include <list>
#include <map>
#include <set>

#include "accelerate/accelerate.h"
#include "accelerate/comm/split.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Share;
using accelerate::share_of_process;
using accelerate::SplitOptions;
using accelerate::UsageError;
using accelerate::World;
using accelerate::internal::split;
using accelerate::support::same_bytes;
using accelerate::support::ThrowsError;

World process(int64_t rank, int64_t size) {
  return {.rank = rank, .size = size, .local_rank = rank, .local_size = size};
}

std::vector<int64_t> sizes(int64_t length, int64_t ranks) {
  std::vector<int64_t> all;
  for (int64_t rank = 0; rank < ranks; ++rank) all.push_back(share_of_process(length, process(rank, ranks)).size());
  return all;
}

TEST(Share, SizesOfTheOriginalsTable) {
  using Sizes = std::vector<int64_t>;
  EXPECT_EQ(sizes(17, 1), (Sizes{17}));
  EXPECT_EQ(sizes(17, 2), (Sizes{9, 8}));
  EXPECT_EQ(sizes(17, 4), (Sizes{5, 4, 4, 4}));
  EXPECT_EQ(sizes(17, 8), (Sizes{3, 2, 2, 2, 2, 2, 2, 2}));
  EXPECT_EQ(sizes(3, 2), (Sizes{2, 1}));
  EXPECT_EQ(sizes(3, 4), (Sizes{1, 1, 1, 0}));
  EXPECT_EQ(sizes(1, 4), (Sizes{1, 0, 0, 0}));
}

RC_GTEST_PROP(Share, SharesAreConsecutiveAndDifferByAtMostOne, ()) {
  const auto length = *rc::gen::inRange<int64_t>(0, 10'000);
  const auto ranks = *rc::gen::inRange<int64_t>(1, 70);
  int64_t next = 0, least = length, most = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const Share share = share_of_process(length, process(rank, ranks));
    RC_ASSERT(share.begin == next);
    RC_ASSERT(share.longest == (length + ranks - 1) / ranks);
    next = share.end;
    least = std::min(least, share.size());
    most = std::max(most, share.size());
  }
  RC_ASSERT(next == length);
  RC_ASSERT(most - least <= 1);
  RC_ASSERT(most == (length + ranks - 1) / ranks);
}

struct Sample {
  at::Tensor x;
  std::vector<std::string> names;
  int64_t kind = 0;
};

struct Value {
  at::Tensor tensor;
  std::vector<std::string> names;
  std::tuple<at::Tensor, std::deque<int64_t>> pair;
  std::map<std::string, at::Tensor> by_name;
  std::map<int, std::map<int, std::vector<double>>> nested;
  std::optional<at::Tensor> present, absent;
  std::variant<at::Tensor, std::vector<int>> either;
  Sample sample;
};

at::Tensor any_tensor(int64_t rows) {
  std::vector<int64_t> shape{rows};
  const auto dims = *rc::gen::inRange(0, 3);
  for (int i = 0; i < dims; ++i) shape.push_back(*rc::gen::inRange<int64_t>(0, 4));
  const at::ScalarType dtype = *rc::gen::element(at::kFloat, at::kLong, at::kBool, at::kHalf, at::kComplexDouble);
  at::Tensor tensor = torch::randint(0, 100, shape).to(dtype);
  // Views are shared out as well.
  return *rc::gen::arbitrary<bool>() && tensor.dim() > 1 ? tensor.transpose(0, 1).contiguous().transpose(0, 1) : tensor;
}

template <class List>
List any_list(int64_t rows) {
  List list;
  for (int64_t i = 0; i < rows; ++i) list.push_back(static_cast<typename List::value_type>(*rc::gen::inRange(0, 100)));
  return list;
}

std::vector<std::string> any_names(int64_t rows) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < rows; ++i) names.push_back(std::to_string(*rc::gen::inRange(0, 100)));
  return names;
}

Value any_value(int64_t rows) {
  return {.tensor = any_tensor(rows),
          .names = any_names(rows),
          .pair = {any_tensor(rows), any_list<std::deque<int64_t>>(rows)},
          .by_name = {{"a", any_tensor(rows)}, {"b", any_tensor(rows)}},
          .nested = {{1, {{1, any_list<std::vector<double>>(rows)}, {2, any_list<std::vector<double>>(rows)}}},
                     {2, {{3, any_list<std::vector<double>>(rows)}}}},
          .present = any_tensor(rows),
          .absent = {},
          .either = any_list<std::vector<int>>(rows),
          .sample = {.x = any_tensor(rows), .names = any_names(rows), .kind = 7}};
}

/// Every part of `value` as one list of its elements' texts.
std::vector<std::string> elements(const at::Tensor& tensor) {
  std::vector<std::string> texts;
  for (int64_t i = 0; i < tensor.size(0); ++i) {
    std::ostringstream out;
    out << tensor[i] << tensor.scalar_type();
    texts.push_back(out.str());
  }
  return texts;
}
template <class List>
std::vector<std::string> elements(const List& list) {
  std::vector<std::string> texts;
  for (const auto& element : list) texts.push_back(testing::PrintToString(element));
  return texts;
}

std::vector<std::vector<std::string>> parts(const Value& value) {
  return {elements(value.tensor),
          elements(value.names),
          elements(std::get<0>(value.pair)),
          elements(std::get<1>(value.pair)),
          elements(value.by_name.at("a")),
          elements(value.by_name.at("b")),
          elements(value.nested.at(1).at(1)),
          elements(value.nested.at(1).at(2)),
          elements(value.nested.at(2).at(3)),
          elements(*value.present),
          elements(std::get<std::vector<int>>(value.either)),
          elements(value.sample.x),
          elements(value.sample.names)};
}

RC_GTEST_PROP(Split, PartsOfAllRanksAreTheWholeInOrder, ()) {
  const auto rows = *rc::gen::inRange<int64_t>(0, 40);
  const auto ranks = *rc::gen::inRange<int64_t>(1, 9);
  const Value value = any_value(rows);
  const auto whole = parts(value);
  std::vector<std::vector<std::string>> joined(whole.size());
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const Value own = split(value, process(rank, ranks), {});
    EXPECT_EQ(own.sample.kind, 7);
    EXPECT_FALSE(own.absent.has_value());
    const auto shares = parts(own);
    for (size_t i = 0; i < shares.size(); ++i) {
      RC_ASSERT(static_cast<int64_t>(shares[i].size()) == share_of_process(rows, process(rank, ranks)).size());
      joined[i].insert(joined[i].end(), shares[i].begin(), shares[i].end());
    }
  }
  RC_ASSERT(joined == whole);
  RC_ASSERT(parts(value) == whole);
}

RC_GTEST_PROP(Split, PaddedPartsAreEquallyLongAndEndWithTheLastElementOfAll, ()) {
  const auto rows = *rc::gen::inRange<int64_t>(0, 40);
  const auto ranks = *rc::gen::inRange<int64_t>(1, 9);
  const Value value = any_value(rows);
  const auto whole = parts(value);
  std::vector<std::vector<std::string>> joined(whole.size());
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const auto shares = parts(split(value, process(rank, ranks), {.apply_padding = true}));
    const Share share = share_of_process(rows, process(rank, ranks));
    for (size_t i = 0; i < shares.size(); ++i) {
      RC_ASSERT(static_cast<int64_t>(shares[i].size()) == share.longest);
      for (int64_t j = share.size(); j < share.longest; ++j) {
        RC_ASSERT(shares[i][static_cast<size_t>(j)] == whole[i].back());
      }
      joined[i].insert(joined[i].end(), shares[i].begin(), shares[i].begin() + share.size());
    }
  }
  RC_ASSERT(joined == whole);
}

TEST(Split, InOneProcessTensorsAreTheSameTensors) {
  const accelerate::Accelerator accelerator;
  const at::Tensor tensor = torch::arange(6);
  EXPECT_TRUE(accelerator.split_between_processes(tensor).is_same(tensor));
  EXPECT_TRUE(accelerator.split_between_processes(tensor, {.apply_padding = true}).is_same(tensor));
  const std::vector<int> list{1, 2, 3};
  EXPECT_EQ(accelerator.split_between_processes(list), list);
  const std::map<std::string, std::vector<int>> map{{"a", {1, 2}}, {"b", {3, 4}}};
  EXPECT_EQ(accelerator.split_between_processes(map), map);
}

TEST(Split, SharesOfATensorAreViewsOfItUntilTheyAreFilledUp) {
  const at::Tensor tensor = torch::tensor({{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}});
  const at::Tensor second = split(tensor, process(1, 2), {});
  EXPECT_TRUE(same_bytes(second, torch::tensor({{8, 9, 10, 11}})));
  EXPECT_TRUE(second.is_alias_of(tensor));
  EXPECT_TRUE(same_bytes(split(tensor, process(1, 2), {.apply_padding = true}),
                         torch::tensor({{8, 9, 10, 11}, {8, 9, 10, 11}})));
  EXPECT_TRUE(same_bytes(split(tensor, process(3, 4), {.apply_padding = true}), torch::tensor({{8, 9, 10, 11}})));
}

TEST(Split, ListsViewsAndSets) {
  const std::list<int> list{1, 2, 3};
  EXPECT_EQ(split(list, process(1, 2), {.apply_padding = true}), (std::list<int>{3, 3}));
  const std::vector<int> numbers{1, 2, 3};
  const auto view = split(std::span<const int>(numbers), process(1, 2), {});
  ASSERT_EQ(view.size(), 1u);
  EXPECT_EQ(view.data(), numbers.data() + 2);
  EXPECT_EQ(split(std::set<int>{5, 6, 7}, process(0, 2), {}), (std::set<int>{5, 6}));
  // A list of lists is shared out by its outer elements, of whatever type.
  const std::vector<std::vector<int>> lists{{1}, {}, {2, 3}};
  EXPECT_EQ(split(lists, process(1, 2), {}), (std::vector<std::vector<int>>{{2, 3}}));
  EXPECT_EQ(split(std::vector<std::shared_ptr<int>>(4), process(1, 2), {}).size(), 2u);
}

TEST(Split, TextsAndNumbersInsideAreEverybodys) {
  const auto share = split(std::tuple(torch::arange(4), std::string("name"), 3), process(1, 2), {});
  EXPECT_EQ(std::get<1>(share), "name");
  EXPECT_EQ(std::get<2>(share), 3);
  EXPECT_TRUE(same_bytes(std::get<0>(share), torch::tensor({2, 3})));
}

TEST(Split, ADataSetGivesADataSet) {
  const accelerate::Accelerator accelerator;
  const accelerate::TensorDataset rows(torch::arange(5));
  auto all = accelerator.split_between_processes(rows);
  EXPECT_EQ(all.size(), 5);
  using accelerate::internal::split_rows;
  EXPECT_EQ(split_rows(5, process(1, 2), {}), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(split_rows(5, process(1, 2), {.apply_padding = true}), (std::vector<int64_t>{3, 4, 4}));
  EXPECT_EQ(split_rows(0, process(1, 2), {.apply_padding = true}), (std::vector<int64_t>{}));
  accelerate::Subset subset(rows, split_rows(5, process(1, 2), {}));
  const std::vector<int64_t> both{1, 0};
  EXPECT_TRUE(same_bytes(std::get<0>(subset.get_batch(both)), torch::tensor({4, 3})));
  accelerate::DataLoader loader(subset, {.batch_size = 2});
  EXPECT_EQ(loader.num_samples(), 2);
}

TEST(SplitErrors, PartsOfDifferentLengths) {
  const std::map<std::string, std::vector<int>> map{{"a", {1, 2, 3}}, {"b", {1, 2}}};
  for (const int64_t ranks : {1, 2}) {
    EXPECT_THAT([&] { split(map, process(0, ranks), {}); },
                ThrowsError<UsageError>({.place = "split_between_processes",
                                         .what = "different lengths",
                                         .got = "2 for part 1",
                                         .expected = "3, as for the parts before",
                                         .remedy = "calls of their own"}));
  }
  EXPECT_THAT(
      [] {
        split(std::tuple(torch::zeros({2, 3}), torch::zeros({3, 2})), process(0, 2), {});
      },
      ThrowsError<UsageError>({.place = "split_between_processes",
                               .what = "different lengths",
                               .got = "3 for part 1",
                               .expected = "2, as",
                               .remedy = "calls of their own"}));
}

TEST(SplitErrors, ATensorWithoutADimension) {
  EXPECT_THAT([] { split(torch::tensor(1.0), process(0, 2), {}); },
              ThrowsError<UsageError>({.place = "split_between_processes",
                                       .what = "no dimension",
                                       .got = "0 dimensions",
                                       .expected = "1 or more",
                                       .remedy = "every process has the whole of it"}));
}

TEST(SplitErrors, AViewAndASetCannotBeFilledUp) {
  const std::vector<int> numbers{1, 2, 3};
  const auto refuses = ThrowsError<UsageError>({.place = "split_between_processes",
                                                .what = "cannot be filled up",
                                                .got = ".apply_padding = true for a view or a set",
                                                .expected = "std::vector",
                                                .remedy = "Copy the elements"});
  EXPECT_THAT([&] { split(std::span<const int>(numbers), process(1, 2), {.apply_padding = true}); }, refuses);
  EXPECT_THAT([&] { split(std::set<int>{1, 2, 3}, process(1, 2), {.apply_padding = true}); }, refuses);
  EXPECT_EQ(split(std::set<int>{1, 2}, process(1, 2), {.apply_padding = true}), (std::set<int>{2}))
      << "nothing is missing";
}

}  // namespace
