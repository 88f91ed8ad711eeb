// Values as bytes and back: equal after the way, whatever they are made of; damage is an error.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include <array>
#include <complex>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "accelerate/core/error.h"
#include "accelerate/tensor/bytes.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::ByteReader;
using accelerate::ByteWriter;
using accelerate::DataError;
using accelerate::internal::from_bytes;
using accelerate::internal::to_bytes;
using accelerate::support::same_bytes;
using accelerate::support::ThrowsError;

enum class Split : uint8_t { kTrain, kTest };

struct Inner {
  std::vector<double> scores;
  std::optional<Split> split;
  bool operator==(const Inner&) const = default;
};
struct Outer {
  std::string name;
  std::map<std::string, Inner> parts;
  std::pair<int, std::array<float, 2>> pair;
  bool flag = false;
  bool operator==(const Outer&) const = default;
};

/// Nothing about it can be seen from outside.
class Token {
 public:
  explicit Token(std::string text) : text_(std::move(text)) {}
  const std::string& text() const { return text_; }
  bool operator==(const Token&) const = default;

 private:
  std::string text_;
};

}  // namespace

template <>
struct accelerate::Serialize<Token> {
  static void write(ByteWriter& out, const Token& token) { out.add(token.text()); }
  static Token read(ByteReader& in) { return Token(in.get<std::string>()); }
};

namespace {

template <class T>
T there_and_back(const T& value) {
  const std::string bytes = to_bytes(value);
  ByteReader in(bytes);
  T copy = in.get<T>();
  EXPECT_TRUE(in.at_end()) << "every byte is read";
  return copy;
}

RC_GTEST_PROP(Bytes, NestedValuesComeBackEqual, ()) {
  using Value = std::vector<
      std::tuple<std::string, std::map<int64_t, std::vector<double>>, bool, std::optional<std::set<std::string>>>>;
  auto value = *rc::gen::container<Value>(rc::gen::apply(
      [](std::string text, std::map<int64_t, std::vector<int>> numbers, bool flag, bool present,
         std::set<std::string> words) {
        std::map<int64_t, std::vector<double>> halves;
        for (const auto& [key, list] : numbers) halves[key] = std::vector<double>(list.begin(), list.end());
        return std::tuple(std::move(text), std::move(halves), flag,
                          present ? std::optional(std::move(words)) : std::nullopt);
      },
      rc::gen::arbitrary<std::string>(), rc::gen::arbitrary<std::map<int64_t, std::vector<int>>>(),
      rc::gen::arbitrary<bool>(), rc::gen::arbitrary<bool>(), rc::gen::arbitrary<std::set<std::string>>()));
  RC_ASSERT(there_and_back(value) == value);
}

RC_GTEST_PROP(Bytes, CutShortAnywhereTheyAreAnError, ()) {
  const auto value = *rc::gen::arbitrary<std::vector<std::pair<std::string, int>>>();
  const std::string bytes = to_bytes(value);
  const auto kept = *rc::gen::inRange<size_t>(0, bytes.size());
  RC_ASSERT_THROWS_AS((from_bytes<std::vector<std::pair<std::string, int>>>(std::string_view(bytes).substr(0, kept))),
                      DataError);
}

TEST(Bytes, ScalarsKeepEveryBit) {
  EXPECT_EQ(there_and_back(std::numeric_limits<int64_t>::min()), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(there_and_back(-0.0), 0.0);
  EXPECT_TRUE(std::signbit(there_and_back(-0.0)));
  EXPECT_TRUE(std::isnan(there_and_back(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(there_and_back(Split::kTest), Split::kTest);
  EXPECT_EQ(there_and_back(std::complex<double>(1, -2)), std::complex<double>(1, -2));
}

TEST(Bytes, AggregatesAndTypesOfTheUserTravel) {
  const Outer value{.name = std::string("a\0b", 3),
                    .parts = {{"x", {.scores = {0.5, -1}, .split = Split::kTest}}, {"y", {}}},
                    .pair = {7, {1.5F, 2.5F}},
                    .flag = true};
  EXPECT_EQ(there_and_back(value), value);
  const std::vector<Token> tokens{Token("one"), Token("")};
  EXPECT_EQ(there_and_back(tokens), tokens);
  const std::map<std::string, std::optional<Token>> named;
  EXPECT_EQ(there_and_back(named), named);
}

TEST(Bytes, EveryContainerTravels) {
  const std::vector<bool> flags{true, false, true};
  EXPECT_EQ(there_and_back(flags), flags);
  const std::deque<std::string> words{"a", "", "c"};
  EXPECT_EQ(there_and_back(words), words);
  const std::unordered_map<std::string, int> counts{{"a", 1}, {"b", 2}};
  EXPECT_EQ(there_and_back(counts), counts);
  using Choice = std::variant<std::monostate, int, std::string, Inner>;
  for (const Choice& choice : {Choice(), Choice(3), Choice("text"), Choice(Inner{.scores = {1}, .split = {}})}) {
    EXPECT_EQ(there_and_back(choice), choice);
  }
}

TEST(Bytes, TensorsOfEveryKindTravel) {
  for (const at::Tensor& tensor :
       {torch::arange(6).view({2, 3}).t(), torch::tensor(1.5), torch::zeros({0, 4}), torch::ones({3}, at::kBFloat16),
        torch::tensor({1.0, 2.0}).to(at::kFloat8_e4m3fn), torch::ones({2}, at::kComplexFloat), at::Tensor()}) {
    const std::map<std::string, at::Tensor> value{{"t", tensor}};
    EXPECT_TRUE(same_bytes(there_and_back(value).at("t"), tensor));
  }
}

TEST(Bytes, TheErrorSaysWhatIsMissing) {
  EXPECT_THAT([] { from_bytes<int64_t>("abc"); },
              ThrowsError<DataError>(
                  {.place = "objects", .what = "end too early", .got = "3 bytes", .expected = "8", .remedy = "read"}));
}

static_assert(accelerate::internal::travels<Outer>());
static_assert(!accelerate::internal::travels<const char*>(), "borrowed");
static_assert(!accelerate::internal::travels<std::string_view>(), "borrowed");
static_assert(!accelerate::internal::travels<std::vector<int*>>(), "pointers mean nothing elsewhere");

}  // namespace
