// A loader is typed by its batch: every kind of batch keeps its type, its order and its values.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/support/tensors.h"

namespace accelerate {
namespace {

using support::integers;
using Numbers = std::vector<int64_t>;

at::Tensor number(int64_t value) { return at::full({}, value, at::kLong); }

/// A data set of `n` examples made by a function.
template <class F>
struct Made {
  int64_t n;
  F make;
  int64_t size() const { return n; }
  auto get(int64_t index) const { return make(index); }
};
template <class F>
Made(int64_t, F) -> Made<F>;

/// A data set that gives whole batches made by a function.
template <class F>
struct MadeBatches {
  int64_t n;
  F make;
  int64_t size() const { return n; }
  auto get_batch(std::span<const int64_t> indices) const { return make(indices); }
};
template <class F>
MadeBatches(int64_t, F) -> MadeBatches<F>;

at::Tensor tensor_of(std::span<const int64_t> indices) {
  return at::tensor(at::ArrayRef<int64_t>(indices.data(), indices.size()));
}

/// What `pick` finds in all batches, joined; unprepared and prepared passes must not differ.
template <class Batch, class Pick>
Numbers joined(const DataLoader<Batch>& loader, Pick pick) {
  Numbers plain, prepared;
  for (auto& batch : loader) {
    for (const int64_t value : integers(pick(batch))) plain.push_back(value);
  }
  loader.set_epoch(0);
  Accelerator accelerator;
  auto handle = accelerator.prepare(loader);
  static_assert(std::is_same_v<decltype(handle), DataLoader<Batch>>);
  for (auto& batch : handle) {
    for (const int64_t value : integers(pick(batch))) prepared.push_back(value);
  }
  EXPECT_EQ(plain, prepared);
  return prepared;
}

TEST(LoaderTypes, Tensor) {
  DataLoader loader(Made{5, [](int64_t i) { return number(i); }}, {.batch_size = 2});
  static_assert(std::is_same_v<decltype(loader)::batch_type, at::Tensor>);
  EXPECT_EQ(joined(loader, [](at::Tensor& batch) { return batch; }), Numbers({0, 1, 2, 3, 4}));
}

TEST(LoaderTypes, Tuple) {
  DataLoader loader(Made{5, [](int64_t i) { return std::tuple(number(i), number(10 * i), at::full({2}, i)); }},
                    {.batch_size = 2});
  EXPECT_EQ(joined(loader, [](auto& batch) { return std::get<1>(batch); }), Numbers({0, 10, 20, 30, 40}));
  for (auto& [a, b, c] : loader) EXPECT_EQ(c.sizes(), at::IntArrayRef({a.size(0), 2})) << b;
}

TEST(LoaderTypes, Pair) {
  DataLoader loader(Made{4, [](int64_t i) { return std::pair(number(i), number(-i)); }}, {.batch_size = 3});
  EXPECT_EQ(joined(loader, [](auto& batch) { return batch.second; }), Numbers({0, -1, -2, -3}));
}

TEST(LoaderTypes, Vector) {
  DataLoader loader(Made{4, [](int64_t i) { return std::vector{number(i), number(i + 10)}; }}, {.batch_size = 3});
  EXPECT_EQ(joined(loader, [](auto& batch) { return batch.at(1); }), Numbers({10, 11, 12, 13}));
}

TEST(LoaderTypes, Map) {
  DataLoader loader(Made{4,
                         [](int64_t i) {
                           return std::map<std::string, at::Tensor>{{"x", number(i)}, {"y", number(2 * i)}};
                         }},
                    {.batch_size = 3});
  EXPECT_EQ(joined(loader, [](auto& batch) { return batch.at("y"); }), Numbers({0, 2, 4, 6}));
}

struct Image {
  at::Tensor pixels;
  at::Tensor label;
};
struct Scene {
  Image left;
  std::vector<Image> others;
  std::optional<at::Tensor> depth;
};

TEST(LoaderTypes, AggregateBySyntax) {
  DataLoader loader(Made{3,
                         [](int64_t i) {
                           return Image{.pixels = at::full({2, 2}, i), .label = number(i)};
                         }},
                    {.batch_size = 2});
  EXPECT_EQ(joined(loader, [](Image& batch) { return batch.label; }), Numbers({0, 1, 2}));
  int64_t seen = 0;
  for (auto& [pixels, label] : loader) seen += pixels.size(0) * (label.dim() == 1);
  EXPECT_EQ(seen, 3);
}

TEST(LoaderTypes, NestedAggregateAndOptional) {
  const auto scene = [](int64_t i) {
    return Scene{
        .left = {number(i), number(i + 10)}, .others = {{number(i + 20), number(i + 30)}}, .depth = number(i + 40)};
  };
  DataLoader loader(Made{3, scene}, {.batch_size = 2});
  EXPECT_EQ(joined(loader, [](Scene& batch) { return batch.left.label; }), Numbers({10, 11, 12}));
  EXPECT_EQ(joined(loader, [](Scene& batch) { return batch.others.at(0).pixels; }), Numbers({20, 21, 22}));
  EXPECT_EQ(joined(loader, [](Scene& batch) { return batch.depth.value(); }), Numbers({40, 41, 42}));
}

using Either = std::variant<at::Tensor, std::vector<at::Tensor>>;

TEST(LoaderTypes, VariantAsBatch) {
  const auto make = [](std::span<const int64_t> indices) -> Either {
    const at::Tensor all = tensor_of(indices);
    if (indices.size() > 1) return all;
    return std::vector{all};
  };
  DataLoader loader(MadeBatches{5, make}, {.batch_size = 2});
  EXPECT_EQ(joined(loader,
                   [](Either& batch) {
                     const at::Tensor* whole = std::get_if<at::Tensor>(&batch);
                     return whole != nullptr ? *whole : std::get<1>(batch).at(0);
                   }),
            Numbers({0, 1, 2, 3, 4}));
}

TEST(LoaderTypes, BatchWithFieldsThatAreNoTensors) {
  struct Batch {
    at::Tensor indices;
    std::string note;
    int64_t count;
  };
  const auto make = [](std::span<const int64_t> indices) {
    return Batch{tensor_of(indices), "batch of " + std::to_string(indices.size()),
                 static_cast<int64_t>(indices.size())};
  };
  DataLoader loader(MadeBatches{3, make}, {.batch_size = 2});
  std::vector<std::string> notes;
  for (auto& [indices, note, count] : loader) notes.push_back(note + " = " + std::to_string(count + indices.size(0)));
  EXPECT_THAT(notes, ::testing::ElementsAre("batch of 2 = 4", "batch of 1 = 2"));
}

}  // namespace

class Boxed {
 public:
  explicit Boxed(at::Tensor tensor) : tensor_(std::move(tensor)) {}
  at::Tensor& tensor() { return tensor_; }

 private:
  at::Tensor tensor_;
};
template <>
struct Flatten<Boxed> {
  template <class V>
  static void for_each(Boxed& value, V&& visit) {
    visit(value.tensor());
  }
};

namespace {

TEST(LoaderTypes, CustomFlatten) {
  DataLoader loader(Made{3, [](int64_t i) { return Boxed(number(i)); }}, {.batch_size = 2});
  EXPECT_EQ(joined(loader, [](Boxed& batch) { return batch.tensor(); }), Numbers({0, 1, 2}));
}

struct Sentence {
  std::string text;
  int64_t length;
};
struct Sentences {
  at::Tensor lengths;
  std::vector<std::string> texts;
};

TEST(LoaderTypes, CollateOfOnesOwnMayChangeTheType) {
  const auto sentence = [](int64_t i) { return Sentence{std::string(static_cast<size_t>(i), 'a'), i}; };
  const auto join = [](std::vector<Sentence> examples) {
    Sentences batch;
    std::vector<int64_t> lengths;
    for (Sentence& example : examples) {
      lengths.push_back(example.length);
      batch.texts.push_back(std::move(example.text));
    }
    batch.lengths = tensor_of(lengths);
    return batch;
  };
  DataLoader loader(Made{5, sentence}, {.batch_size = 2}, join);
  static_assert(std::is_same_v<decltype(loader)::batch_type, Sentences>);
  EXPECT_EQ(joined(loader, [](Sentences& batch) { return batch.lengths; }), Numbers({0, 1, 2, 3, 4}));
  for (auto& [lengths, texts] : loader) {
    ASSERT_EQ(static_cast<int64_t>(texts.size()), lengths.size(0));
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(static_cast<int64_t>(texts[i].size()), lengths[static_cast<int64_t>(i)].item<int64_t>());
    }
  }
}

TEST(LoaderTypes, CollateOfOnesOwnPadsWhatTheDefaultRefuses) {
  const auto ragged = [](int64_t i) { return at::ones({i + 1}, at::kLong); };
  DataLoader refused(Made{3, ragged}, {.batch_size = 3});
  EXPECT_THROW(refused.begin(), DataError);
  const auto pad = [](std::vector<at::Tensor> rows) {
    at::Tensor out = at::zeros({static_cast<int64_t>(rows.size()), 3}, at::kLong);
    for (size_t i = 0; i < rows.size(); ++i) out[static_cast<int64_t>(i)].narrow(0, 0, rows[i].size(0)).copy_(rows[i]);
    return out;
  };
  DataLoader padded(Made{3, ragged}, {.batch_size = 3}, pad);
  EXPECT_EQ(joined(padded, [](at::Tensor& batch) { return batch; }), Numbers({1, 0, 0, 1, 1, 0, 1, 1, 1}));
}

TEST(LoaderTypes, ADataSetThatGivesBothIsAskedForBatches) {
  struct Both {
    int64_t size() const { return 3; }
    at::Tensor get(int64_t) const { throw std::logic_error("examples are not asked for"); }
    at::Tensor get_batch(std::span<const int64_t> indices) const { return tensor_of(indices); }
  };
  EXPECT_EQ(joined(DataLoader(Both{}, {.batch_size = 2}), [](at::Tensor& batch) { return batch; }), Numbers({0, 1, 2}));
}

TEST(LoaderTypes, ExamplesAreNeitherCopiedNorMovedMoreThanNeeded) {
  const at::Tensor data = support::numbered_rows(4, 2);
  DataLoader loader(TensorDataset{data}, {.batch_size = 4});
  for (auto& [rows] : loader) {
    rows.zero_();
    rows = at::Tensor();  // a batch is the user's until the next one
  }
  EXPECT_EQ(data.sum().item<int64_t>(), 28) << "writing into a batch must not reach the data set";
}

}  // namespace
}  // namespace accelerate
