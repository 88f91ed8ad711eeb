#include "accelerate/tensor/reflect.h"

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace accelerate::internal {
namespace {

// One struct of N integer fields for every N that is supported, and one beyond.
#define FIELDS_0
#define FIELDS_1 int a = 1;
#define FIELDS_2 FIELDS_1 int b = 2;
#define FIELDS_3 FIELDS_2 int c = 3;
#define FIELDS_4 FIELDS_3 int d = 4;
#define FIELDS_5 FIELDS_4 int e = 5;
#define FIELDS_6 FIELDS_5 int f = 6;
#define FIELDS_7 FIELDS_6 int g = 7;
#define FIELDS_8 FIELDS_7 int h = 8;
#define FIELDS_9 FIELDS_8 int i = 9;
#define FIELDS_10 FIELDS_9 int j = 10;
#define FIELDS_11 FIELDS_10 int k = 11;
#define FIELDS_12 FIELDS_11 int l = 12;
#define FIELDS_13 FIELDS_12 int m = 13;
#define FIELDS_20 FIELDS_13 int n, o, p, q, r, s, t;

template <size_t N>
struct Struct;
#define DEFINE(N)    \
  template <>        \
  struct Struct<N> { \
    FIELDS_##N       \
  };
DEFINE(0)
DEFINE(1)
DEFINE(2)
DEFINE(3)
DEFINE(4)
DEFINE(5)
DEFINE(6)
DEFINE(7)
DEFINE(8)
DEFINE(9)
DEFINE(10)
DEFINE(11)
DEFINE(12)
DEFINE(13)
DEFINE(20)

template <size_t N>
void check_struct() {
  static_assert(field_count<Struct<N>>() == N);
  Struct<N> value;
  auto fields = tie_fields(value);
  static_assert(std::tuple_size_v<decltype(fields)> == N);
  uint64_t sum = 0;  // may wrap around
  std::apply([&](auto&... field) { ((sum = sum * 13 + static_cast<uint64_t>(field), field = -field), ...); }, fields);
  uint64_t expected = 0;
  for (uint64_t i = 1; i <= N; ++i) expected = expected * 13 + i;
  EXPECT_EQ(sum, expected) << "fields come in the order of their declaration; N = " << N;
  const Struct<N>& constant = value;
  int negative = 0;
  std::apply([&](const auto&... field) { ((negative += field), ...); }, tie_fields(constant));
  EXPECT_EQ(negative, -static_cast<int>(N * (N + 1) / 2)) << "the tuple must refer to the fields themselves; N = " << N;
}

TEST(Reflect, EveryNumberOfFieldsThatIsSupported) {
  [&]<size_t... N>(std::index_sequence<N...>) { (check_struct<N>(), ...); }
  (std::make_index_sequence<kMaxFields + 1>{});
}

static_assert(field_count<Struct<13>>() == kMaxFields + 1);
static_assert(field_count<Struct<20>>() == kMaxFields + 1, "any larger number counts as one too many");

struct Mixed {
  at::Tensor tensor;
  std::optional<at::Tensor> maybe;
  std::vector<at::Tensor> list;
  std::array<at::Tensor, 3> array;
  Struct<3> nested;
  std::unique_ptr<int> owner;
  std::string text = "default";
};
static_assert(field_count<Mixed>() == 7, "an array, a nested struct and a move-only member are one field each");

TEST(Reflect, FieldsOfManyKindsAreReferredTo) {
  Mixed value;
  value.owner = std::make_unique<int>(5);
  auto fields = tie_fields(value);
  EXPECT_EQ(&std::get<0>(fields), &value.tensor);
  EXPECT_EQ(&std::get<3>(fields), &value.array);
  EXPECT_EQ(&std::get<4>(fields), &value.nested);
  EXPECT_EQ(*std::get<5>(fields), 5);
  EXPECT_EQ(std::get<6>(fields), "default");
}

}  // namespace
}  // namespace accelerate::internal
