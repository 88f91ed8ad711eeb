// Batches: their size, parts of them, several in a row, and padding. Tables: upstream's tests/test_utils.py.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "accelerate/core/error.h"
#include "accelerate/tensor/batch.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::concatenate;
using accelerate::DataError;
using accelerate::find_batch_size;
using accelerate::ignorant_find_batch_size;
using accelerate::pad_input_tensors;
using accelerate::slice_tensors;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using Tensors = std::vector<at::Tensor>;
using Named = std::map<std::string, at::Tensor>;

std::vector<int64_t> shape(const at::Tensor& tensor) { return tensor.sizes().vec(); }
using Sizes = std::vector<int64_t>;

TEST(FindBatchSize, IsTheSizeOfTheFirstTensor) {
  const at::Tensor x = torch::zeros({3, 2}), y = torch::zeros({5});
  EXPECT_EQ(find_batch_size(x), 3);
  EXPECT_EQ(find_batch_size(Tensors{x, y}), 3);
  EXPECT_EQ(find_batch_size(Named{{"b", x}, {"a", y}}), 5) << "the first key";
  EXPECT_EQ(find_batch_size(std::tuple(std::string("text"), std::vector{Named{{"a", y}}})), 5);
  EXPECT_EQ(find_batch_size(Tensors{at::Tensor(), x}), 3) << "an undefined one is none";
}

TEST(FindBatchSize, SaysWhatHasNone) {
  EXPECT_THAT([] { find_batch_size(Tensors()); }, ThrowsError<UsageError>({.place = "find_batch_size",
                                                                           .what = "no batch size",
                                                                           .got = "no tensor",
                                                                           .expected = "one",
                                                                           .remedy = "ignorant_find_batch_size"}));
  EXPECT_THAT([] { find_batch_size(std::tuple(torch::tensor(1.0), torch::zeros({2}))); },
              ThrowsError<UsageError>({.place = "find_batch_size",
                                       .what = "no such dimension",
                                       .got = "dimension 0 of a tensor of shape []",
                                       .expected = "every tensor",
                                       .remedy = "unsqueeze"}));
  EXPECT_EQ(ignorant_find_batch_size(Tensors()), std::nullopt);
  EXPECT_EQ(ignorant_find_batch_size(Tensors{at::Tensor()}), std::nullopt);
  EXPECT_EQ(ignorant_find_batch_size(Named{{"a", torch::zeros({4})}}), 4);
  EXPECT_THROW(ignorant_find_batch_size(torch::tensor(1.0)), UsageError) << "index errors pass, as in the original";
}

// Against plain indexing of a list, as Python has it.
RC_GTEST_PROP(SliceTensors, TakesWhatASliceOfAListTakes, ()) {
  const auto size = *rc::gen::inRange<int64_t>(0, 9);
  const auto start = *rc::gen::inRange<int64_t>(-12, 12);
  const auto stop = *rc::gen::inRange<int64_t>(-12, 12);
  const auto step = *rc::gen::inRange<int64_t>(1, 4);
  const bool open = *rc::gen::arbitrary<bool>();
  const auto clamp = [&](int64_t index) { return std::clamp<int64_t>(index < 0 ? index + size : index, 0, size); };
  std::vector<int64_t> expected;
  for (int64_t i = clamp(start); i < (open ? size : clamp(stop)); i += step) expected.push_back(i);
  const Named value{{"a", torch::arange(size)}, {"b", torch::arange(size).view({size, 1}).expand({size, 3})}};
  const Named part =
      slice_tensors(value, {.start = start, .stop = open ? std::nullopt : std::optional(stop), .step = step});
  RC_ASSERT(torch::equal(part.at("a"), torch::tensor(expected, at::kLong)));
  RC_ASSERT(torch::equal(part.at("b").select(1, 2), torch::tensor(expected, at::kLong)));
}

TEST(SliceTensors, LeavesWhatIsNoTensorAndSaysWhatCannotBeSliced) {
  const auto [tensor, number, none] =
      slice_tensors(std::tuple(torch::arange(4), 7, at::Tensor()), {.start = 1, .stop = 3});
  EXPECT_TRUE(torch::equal(tensor, torch::tensor({1, 2})));
  EXPECT_EQ(number, 7);
  EXPECT_FALSE(none.defined());
  EXPECT_THAT([] { slice_tensors(torch::tensor(1), {.start = 1}); },
              ThrowsError<UsageError>({.place = "slice_tensors",
                                       .what = "no such dimension",
                                       .got = "shape []",
                                       .expected = "every tensor",
                                       .remedy = "unsqueeze"}));
  EXPECT_THAT([] { slice_tensors(torch::arange(3), {.step = 0}); }, ThrowsError<UsageError>({.place = "slice_tensors",
                                                                                             .what = "not positive",
                                                                                             .got = ".step = 0",
                                                                                             .expected = "1 or more",
                                                                                             .remedy = "flip"}));
}

TEST(Concatenate, TableOfTheOriginal) {
  const at::Tensor x = torch::rand({2, 3}), y = torch::rand({2, 3});
  const at::Tensor both = concatenate(Tensors{x, y});
  EXPECT_EQ(shape(both), (Sizes{4, 3}));
  EXPECT_TRUE(torch::equal(both.narrow(0, 0, 2), x));
  EXPECT_TRUE(torch::equal(both.narrow(0, 2, 2), y));
  EXPECT_TRUE(concatenate(Tensors{x}).is_same(x));
  EXPECT_EQ(concatenate(std::vector<std::string>{"test_string"}), "test_string");

  const Tensors lists = concatenate(
      std::vector<Tensors>{{torch::rand({2, 3}), torch::rand({2, 4})}, {torch::rand({2, 3}), torch::rand({2, 4})}});
  ASSERT_EQ(lists.size(), 2U);
  EXPECT_EQ(shape(lists[0]), (Sizes{4, 3}));
  EXPECT_EQ(shape(lists[1]), (Sizes{4, 4}));
  const auto [first, second] = concatenate(std::vector{std::tuple(torch::rand({2, 3}), torch::rand({2, 4})),
                                                       std::tuple(torch::rand({2, 3}), torch::rand({2, 4}))});
  EXPECT_EQ(shape(first), (Sizes{4, 3}));
  EXPECT_EQ(shape(second), (Sizes{4, 4}));
  const Named named = concatenate(std::vector<Named>{{{"x", torch::rand({2, 3})}}, {{"x", torch::rand({2, 3})}}});
  EXPECT_EQ(shape(named.at("x")), (Sizes{4, 3}));
  EXPECT_EQ(shape(concatenate(Tensors(3, torch::rand({5, 10})))), (Sizes{15, 10}));
  EXPECT_EQ(shape(concatenate(Tensors(2, torch::rand({3, 2, 4})), {.dim = 1})), (Sizes{3, 4, 4}));
  EXPECT_EQ(shape(concatenate(Tensors(2, torch::rand({3, 2, 4})), {.dim = -1})), (Sizes{3, 2, 8}));

  using Nested = std::map<std::string, std::variant<at::Tensor, std::vector<at::Tensor>>>;
  const Nested nested = concatenate(
      std::vector<Nested>(3, {{"a", torch::rand({2, 3})}, {"b", Tensors{torch::rand({2, 4}), torch::rand({2, 1})}}}));
  EXPECT_EQ(shape(std::get<0>(nested.at("a"))), (Sizes{6, 3}));
  EXPECT_EQ(shape(std::get<1>(nested.at("b")).at(0)), (Sizes{6, 4}));
  EXPECT_EQ(shape(std::get<1>(nested.at("b")).at(1)), (Sizes{6, 1}));
}

TEST(Concatenate, SaysWhatDoesNotFit) {
  EXPECT_THAT(
      [] {
        concatenate(Tensors{torch::rand({5, 10}), torch::rand({5, 12})});
      },
      ThrowsError<DataError>({.place = "concatenate",
                              .what = "Tensor 0 of item 1",
                              .got = "[5, 12] Float",
                              .expected = "[5, 10] Float, except along dimension 0",
                              .remedy = "one shape"}));
  using Mixed = std::tuple<at::Tensor, std::string>;
  const Mixed item(torch::rand({1}), "text");
  EXPECT_EQ(std::get<1>(concatenate(std::vector<Mixed>{item})), "text") << "one item stays what it is";
  EXPECT_THAT(
      [&] {
        concatenate(std::vector<Mixed>{item, item});
      },
      ThrowsError<UsageError>({.place = "concatenate",
                               .what = "Only tensors",
                               .got = "texts",
                               .expected = "tensors",
                               .remedy = "tensors"}));
  EXPECT_THAT(
      [] {
        concatenate(std::vector<Named>{{{"a", torch::rand({1})}}, {{"b", torch::rand({1})}}});
      },
      ThrowsError<DataError>(
          {.place = "concatenate", .what = "Item 1", .got = "b:", .expected = "a:", .remedy = "same keys"}));
  EXPECT_THAT(
      [] {
        concatenate(Tensors{at::Tensor(), torch::rand({1})});
      },
      ThrowsError<DataError>({.place = "concatenate",
                              .what = "Tensor 0 of item 0",
                              .got = "undefined",
                              .expected = "undefined",
                              .remedy = "shape"}));
  EXPECT_THAT([] { concatenate(Tensors()); }, ThrowsError<UsageError>({.place = "concatenate",
                                                                       .what = "nothing to concatenate",
                                                                       .got = "empty",
                                                                       .expected = "one",
                                                                       .remedy = "empty"}));
  EXPECT_THROW(concatenate(Tensors(2, torch::tensor(1.0))), UsageError);
}

// What slices take apart, concatenation puts together.
RC_GTEST_PROP(Concatenate, UndoesSlicing, ()) {
  const auto size = *rc::gen::inRange<int64_t>(1, 12);
  const auto cuts = *rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(0, size + 1));
  std::vector<int64_t> ends(cuts);
  std::sort(ends.begin(), ends.end());
  ends.push_back(size);
  const std::vector<Named> whole{{{"x", torch::arange(size)}, {"y", torch::rand({size, 2})}}};
  std::vector<std::vector<Named>> parts;
  int64_t begin = 0;
  for (const int64_t end : ends) {
    parts.push_back(slice_tensors(whole, {.start = begin, .stop = end}));
    begin = end;
  }
  const std::vector<Named> joined = concatenate(parts);
  RC_ASSERT(torch::equal(joined[0].at("x"), whole[0].at("x")));
  RC_ASSERT(torch::equal(joined[0].at("y"), whole[0].at("y")));
}

TEST(PadInputTensors, TableOfTheOriginal) {
  const std::vector<std::tuple<int64_t, int64_t, int64_t>> table{{1, 2, 2}, {3, 2, 4}, {4, 3, 6}, {3, 4, 4},
                                                                 {4, 6, 6}, {1, 6, 6}, {2, 6, 6}, {61, 6, 66}};
  for (const auto& [batch, processes, rows] : table) {
    const at::Tensor padded =
        pad_input_tensors(torch::rand({batch, 4, 4}), {.batch_size = batch, .num_processes = processes});
    EXPECT_EQ(shape(padded), (Sizes{rows, 4, 4})) << batch << " for " << processes;
  }
}

// Better than the original: always a multiple, and, as its manual says, the last input repeated.
RC_GTEST_PROP(PadInputTensors, ReachesTheNextMultipleByRepeatingTheLastEntry, ()) {
  const auto size = *rc::gen::inRange<int64_t>(1, 20);
  const auto processes = *rc::gen::inRange<int64_t>(1, 9);
  const auto dim = *rc::gen::inRange<int64_t>(-2, 2);
  const at::Tensor x = dim == 0 || dim == -2 ? torch::rand({size, 2}) : torch::rand({2, size});
  const at::Tensor padded = pad_input_tensors(x, {.batch_size = size, .num_processes = processes, .dim = dim});
  const int64_t length = padded.size(dim);
  RC_ASSERT(length % processes == 0);
  RC_ASSERT(length - size < processes);
  RC_ASSERT(torch::equal(padded.narrow(dim, 0, size), x));
  for (int64_t i = size; i < length; ++i) RC_ASSERT(torch::equal(padded.select(dim, i), x.select(dim, size - 1)));
  if (length == size) RC_ASSERT(padded.is_same(x));
}

TEST(PadInputTensors, SaysWhatCannotBePadded) {
  EXPECT_THAT([] { pad_input_tensors(torch::zeros({3}), {.batch_size = 4, .num_processes = 2}); },
              ThrowsError<UsageError>({.place = "pad_input_tensors",
                                       .what = "another size",
                                       .got = ".batch_size = 4",
                                       .expected = "that size",
                                       .remedy = "find_batch_size"}));
  EXPECT_THAT([] { pad_input_tensors(torch::zeros({0}), {.batch_size = 0, .num_processes = 2}); },
              ThrowsError<UsageError>({.place = "pad_input_tensors",
                                       .what = "no entry",
                                       .got = "[0]",
                                       .expected = "at least one",
                                       .remedy = "find_batch_size"}));
  EXPECT_THAT([] { pad_input_tensors(torch::zeros({3}), {.batch_size = 3, .num_processes = 0}); },
              ThrowsError<UsageError>({.place = "pad_input_tensors",
                                       .what = "not positive",
                                       .got = ".num_processes = 0",
                                       .expected = "1",
                                       .remedy = "num_processes()"}));
}

}  // namespace
