// What values are made of, without their elements; numbers out of tensors; where tensors are and what they become.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "accelerate/core/error.h"
#include "accelerate/tensor/bytes.h"
#include "accelerate/tensor/convert.h"
#include "accelerate/tensor/shape.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::convert_to_fp32;
using accelerate::DataStructure;
using accelerate::find_device;
using accelerate::get_data_structure;
using accelerate::get_shape;
using accelerate::initialize_tensors;
using accelerate::listify;
using accelerate::send_to_device;
using accelerate::TensorInformation;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using Named = std::map<std::string, at::Tensor>;
using Tensors = std::vector<at::Tensor>;

struct Batch {
  at::Tensor ids;
  std::map<std::string, Tensors> parts;
  std::optional<at::Tensor> weights;
  int64_t count = 0;
};

Batch batch() {
  return {.ids = torch::arange(4),
          .parts = {{"a", {torch::rand({2, 3}, at::kHalf), at::Tensor()}}, {"b", {}}},
          .weights = torch::zeros({0, 2}, at::kDouble),
          .count = 7};
}

TEST(DataStructure, SaysWhatTensorsAreAndMakesThemAgain) {
  const DataStructure<Batch> structure = get_data_structure(batch());
  EXPECT_EQ(structure.tensors, (std::vector<TensorInformation>{{.shape = {4}, .dtype = at::kLong},
                                                               {.shape = {2, 3}, .dtype = at::kHalf},
                                                               {},
                                                               {.shape = {0, 2}, .dtype = at::kDouble}}));
  EXPECT_FALSE(structure.value.ids.defined()) << "the elements are gone";
  EXPECT_EQ(structure.value.count, 7);
  const Batch made = initialize_tensors(structure);
  EXPECT_EQ(made.ids.sizes(), (std::vector<int64_t>{4}));
  EXPECT_EQ(made.ids.scalar_type(), at::kLong);
  EXPECT_FALSE(made.parts.at("a").at(1).defined());
  EXPECT_TRUE(made.parts.at("b").empty());
  EXPECT_EQ(made.weights->scalar_type(), at::kDouble);
  EXPECT_TRUE(made.ids.is_cpu());
  EXPECT_EQ(get_shape(batch()), (std::vector<std::vector<int64_t>>{{4}, {2, 3}, {}, {0, 2}}));
}

TEST(DataStructure, TravelsAsBytes) {
  const std::string bytes = accelerate::internal::to_bytes(get_data_structure(batch()));
  EXPECT_LT(bytes.size(), 300U);
  const Batch made = initialize_tensors(accelerate::internal::from_bytes<DataStructure<Batch>>(bytes));
  EXPECT_EQ(made.parts.at("a").at(0).sizes(), (std::vector<int64_t>{2, 3}));
}

TEST(Listify, TableOfTheOriginal) {
  using Row = std::vector<int64_t>;
  using Matrix = std::vector<Row>;
  EXPECT_EQ(listify<Row>(torch::tensor({1, 2, 3, 4, 5})), (Row{1, 2, 3, 4, 5}));
  EXPECT_EQ(listify<Matrix>(torch::tensor({{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}})),
            (Matrix{{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}}));
  EXPECT_EQ(listify<std::vector<Matrix>>(torch::arange(1, 9).view({2, 2, 2}).transpose(1, 2)),
            (std::vector<Matrix>{{{1, 3}, {2, 4}}, {{5, 7}, {6, 8}}}));
}

TEST(Listify, ReadsEveryRealDtypeAndEveryStructure) {
  EXPECT_EQ(listify<double>(torch::tensor(0.5, at::kBFloat16)), 0.5);
  EXPECT_EQ(listify<std::vector<float>>(torch::tensor({0.5, 2.0}, torch::requires_grad()).to(at::kFloat8_e5m2)),
            (std::vector<float>{0.5F, 2.0F}));
  EXPECT_EQ(listify<std::vector<bool>>(torch::tensor({true, false})), (std::vector<bool>{true, false}));
  EXPECT_EQ(listify<int64_t>(torch::tensor(9'007'199'254'740'993)), 9'007'199'254'740'993) << "no detour over doubles";
  const std::map<std::string, double> metrics =
      listify<std::map<std::string, double>>(Named{{"loss", torch::tensor(1.5)}, {"steps", torch::tensor(3)}});
  EXPECT_EQ(metrics, (std::map<std::string, double>{{"loss", 1.5}, {"steps", 3}}));
  using Target = std::tuple<std::vector<double>, std::string>;
  EXPECT_EQ(listify<Target>(std::tuple(torch::tensor({1.0}), std::string("text"))), Target({1.0}, "text"));
}

TEST(Listify, SaysWhatHasNoSuchList) {
  EXPECT_THAT(
      [] {
        listify<std::vector<double>>(torch::zeros({2, 2}));
      },
      ThrowsError<UsageError>({.place = "listify",
                               .what = "other dimensions",
                               .got = "[2, 2] and dtype Float",
                               .expected = "1 dimensions",
                               .remedy = "listify<"}));
  EXPECT_THAT([] { listify<std::vector<int>>(torch::zeros({2})); },
              ThrowsError<UsageError>({.place = "listify",
                                       .what = "Fractions",
                                       .got = "Float",
                                       .expected = "float or double",
                                       .remedy = "convert"}));
  EXPECT_THAT([] { listify<double>(torch::zeros({}, at::kComplexFloat)); },
              ThrowsError<UsageError>({.place = "listify",
                                       .what = "Complex",
                                       .got = "ComplexFloat",
                                       .expected = "real",
                                       .remedy = "view_as_real"}));
  EXPECT_THROW(listify<double>(at::Tensor()), UsageError);
}

// The original's table has tensor, (t, [t, t], 1), {a: t, b: [t, t], c: 1}, a named tuple and a mapping class.
TEST(SendToDevice, KeepsStructuresAndWhatIsNoTensor) {
  const c10::Device meta(c10::kMeta);
  const at::Tensor t = torch::rand({5, 2});
  EXPECT_TRUE(send_to_device(t, meta).is_meta());
  EXPECT_TRUE(send_to_device(t, c10::kCPU).is_same(t));
  const auto [a, list, one] = send_to_device(std::tuple(t, Tensors{t, t}, 1), meta);
  EXPECT_TRUE(a.is_meta() && list.at(0).is_meta() && list.at(1).is_meta());
  EXPECT_EQ(one, 1);
  const auto map =
      send_to_device(std::map<std::string, std::variant<int, Tensors>>{{"b", Tensors{t, t}}, {"c", 1}}, meta);
  EXPECT_TRUE(std::get<Tensors>(map.at("b")).at(1).is_meta());
  EXPECT_EQ(std::get<int>(map.at("c")), 1);
  const Batch moved = send_to_device(batch(), meta);
  EXPECT_TRUE(moved.ids.is_meta() && moved.weights->is_meta() && moved.parts.at("a").at(0).is_meta());
  EXPECT_EQ(moved.count, 7);
  EXPECT_TRUE(send_to_device(std::unordered_map<int, at::Tensor>{{3, t}}, meta).at(3).is_meta());
}

TEST(SendToDevice, SkipsKeysAtEveryLevel) {
  const c10::Device meta(c10::kMeta);
  using Maps = std::map<std::string, Named>;
  const Maps value{{"keep", {{"x", torch::ones({1})}}},
                   {"move", {{"x", torch::ones({1})}, {"keep", torch::ones({1})}}}};
  const Maps moved = send_to_device(value, meta, {.skip_keys = {"keep"}});
  EXPECT_TRUE(moved.at("keep").at("x").is_cpu());
  EXPECT_TRUE(moved.at("move").at("x").is_meta());
  EXPECT_TRUE(moved.at("move").at("keep").is_cpu());
  const auto deep = send_to_device(std::vector{std::pair(1, std::optional(value))}, meta, {.skip_keys = {"x", "keep"}});
  EXPECT_TRUE(deep.at(0).second->at("move").at("x").is_cpu());
}

TEST(FindDevice, TableOfTheOriginal) {
  const at::Tensor t = torch::ones({1});
  EXPECT_EQ(find_device(std::tuple(1, std::string("a"), t)), c10::Device(c10::kCPU));
  EXPECT_EQ(find_device(std::map<std::string, std::variant<int, at::Tensor>>{{"a", 1}, {"b", t}}),
            c10::Device(c10::kCPU));
  EXPECT_EQ(find_device(std::tuple(1, std::string("a"))), std::nullopt);
  EXPECT_EQ(find_device(Tensors{at::Tensor(), torch::empty({1}, at::kMeta)}), c10::Device(c10::kMeta));
}

TEST(ConvertToFp32, ConvertsHalvesAndNothingElse) {
  const at::Tensor whole = torch::ones({1}, at::kLong), full = torch::ones({1}), wide = torch::ones({1}, at::kDouble);
  const auto [map, list, text] = convert_to_fp32(std::tuple(
      Named{{"h", torch::ones({1}, at::kHalf)}, {"b", torch::full({2}, 1.5, at::kBFloat16)}},
      Tensors{whole, full, wide, at::Tensor(), torch::ones({1}).to(at::kFloat8_e4m3fn)}, std::string("text")));
  EXPECT_EQ(map.at("h").scalar_type(), at::kFloat);
  EXPECT_TRUE(torch::equal(map.at("b"), torch::full({2}, 1.5)));
  EXPECT_TRUE(list.at(0).is_same(whole) && list.at(1).is_same(full) && list.at(2).is_same(wide));
  EXPECT_EQ(list.at(4).scalar_type(), at::kFloat8_e4m3fn);
  EXPECT_EQ(text, "text");
}

// LibTorch's own example type, whose header the library does not include.
TEST(ExampleOfLibTorch, IsFoundByItsMembers) {
  using Example = torch::data::Example<>;
  static_assert(accelerate::internal::Flattenable<Example>);
  static_assert(accelerate::internal::travels<Example>());
  const Example half(torch::ones({2}, at::kHalf), torch::ones({1}, at::kHalf));
  const Example full = convert_to_fp32(half);
  EXPECT_EQ(full.data.scalar_type(), at::kFloat);
  EXPECT_EQ(full.target.scalar_type(), at::kFloat);
  EXPECT_EQ(get_shape(full), (std::vector<std::vector<int64_t>>{{2}, {1}}));
  const torch::data::TensorExample alone = convert_to_fp32(torch::data::TensorExample(torch::ones({2}, at::kHalf)));
  EXPECT_EQ(alone.data.scalar_type(), at::kFloat);
  const Example back = accelerate::internal::from_bytes<Example>(accelerate::internal::to_bytes(half));
  EXPECT_TRUE(torch::equal(back.data, half.data));
}

}  // namespace
