#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"
#include "tests/parity/holding.h"
#include "tests/parity/networks.h"
#include "tests/parity/tolerance.h"

namespace parity {
namespace {

struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(int64_t width) {
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({width})));
    attention = register_module("attention", torch::nn::Linear(torch::nn::LinearOptions(width, 3 * width).bias(false)));
  }
  at::Tensor forward(const at::Tensor& x) { return attention(norm(x)); }
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear attention{nullptr};
};
TORCH_MODULE(Block);

/// The counterpart of `Nested` in original/checkpoints.py.
struct NestedImpl : torch::nn::Module {
  NestedImpl() {
    embedding = register_module("embedding", torch::nn::Embedding(5, 4));
    blocks = register_module("blocks", torch::nn::ModuleList(Block(4), Block(4)));
    stem = register_module(
        "stem", torch::nn::Sequential(torch::nn::Conv2d(1, 2, 3), torch::nn::BatchNorm2d(2), torch::nn::ReLU()));
    const std::vector<std::pair<std::string, std::shared_ptr<torch::nn::Module>>> both = {
        {"policy", torch::nn::Linear(4, 2).ptr()}, {"value", torch::nn::Linear(4, 1).ptr()}};
    heads = register_module("heads", torch::nn::ModuleDict(both));
    scale = register_parameter("scale", torch::ones({}));
    positions = register_buffer("positions", torch::arange(6).reshape({2, 3}));
  }
  at::Tensor forward(const at::Tensor& x) { return embedding(x) * scale; }
  torch::nn::Embedding embedding{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  torch::nn::Sequential stem{nullptr};
  torch::nn::ModuleDict heads{nullptr};
  at::Tensor scale, positions;
};
TORCH_MODULE(Nested);

struct WeightImpl : torch::nn::Module {
  explicit WeightImpl(const at::Tensor& shared) { weight = register_parameter("weight", shared); }
  at::Tensor weight;
};
TORCH_MODULE(Weight);

/// The counterpart of `Tied` in original/checkpoints.py.
struct TiedImpl : torch::nn::Module {
  TiedImpl() {
    const at::Tensor shared = torch::ones({2, 2});
    register_module("encoder", Weight(shared));
    register_module("decoder", Weight(shared));
    register_parameter("bare", shared);
    const at::Tensor other = torch::zeros({3});
    register_module("zeta", Weight(other));
    register_module("alpha", Weight(other));
  }
  at::Tensor forward(const at::Tensor& x) { return x; }
};
TORCH_MODULE(Tied);

/// The JSON in front of a safetensors file.
Json header_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() < 8) throw std::runtime_error(path.string() + " is no safetensors file");
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
  return Json::parse(bytes.substr(8, length));
}

class Checkpoints : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  const std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) /
      (std::string("parity_") + testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(Checkpoints, HaveTheKeysShapesAndDtypesOfTheOriginals) {
  const Json expected = read_fixture("state_dict.json").at("file");
  accelerate::Accelerator accelerator;
  const auto model = accelerator.prepare(Nested());
  accelerator.save_model(model, folder_.string());
  Json header = header_of(folder_ / "model.safetensors");
  EXPECT_EQ(header.at("__metadata__"), expected.at("metadata"));
  header.erase("__metadata__");
  for (const auto& [key, description] : expected.at("tensors").items()) {
    ASSERT_TRUE(header.contains(key)) << key;
    EXPECT_EQ(header[key].at("shape"), description.at("shape")) << key;
    EXPECT_EQ(header[key].at("dtype"), description.at("dtype") == "int64" ? "I64" : "F32") << key;
  }
  EXPECT_EQ(header.size(), expected.at("tensors").size());
}

TEST_F(Checkpoints, KeepTiedParametersUnderTheNamesThatTheOriginalKeeps) {
  const std::vector<std::string> expected = read_fixture("state_dict.json").at("tied_file");
  ASSERT_EQ(expected.size(), 2u);
  accelerate::Accelerator accelerator;
  accelerator.save_model(accelerator.prepare(Tied()), folder_.string());
  Json header = header_of(folder_ / "model.safetensors");
  header.erase("__metadata__");
  std::vector<std::string> names;
  for (const auto& [name, description] : header.items()) names.push_back(name);
  EXPECT_EQ(names, expected);
}

TEST(StateDict, NamesItsParametersAsPythonDoes) {
  std::vector<std::string> names;
  for (const auto& entry : Nested()->named_parameters()) names.push_back(entry.key());
  std::vector<std::string> expected = read_fixture("state_dict.json").at("parameters_in_order");
  // The numbering of optimizer states follows this order on both sides.
  EXPECT_EQ(names, expected);
}

TEST_F(Checkpoints, OfTheOriginalAreLoadedAndAnswerTheSame) {
  const Json expected = read_fixture("mlp.json");
  accelerate::Accelerator accelerator;
  const auto model = accelerator.prepare(Mlp());
  const auto result = accelerator.load_model(model, fixture_path("mlp.safetensors").string());
  EXPECT_TRUE(result.missing_keys.empty());
  EXPECT_TRUE(result.unexpected_keys.empty());
  const torch::NoGradGuard no_grad;
  const at::Tensor outputs = model(array(read_fixture("problem.json").at("inputs"), at::kFloat)).flatten();
  size_t i = 0;
  for (const Json& row : expected.at("outputs")) {
    for (const Json& value : row) {
      const double got = outputs[static_cast<int64_t>(i)].item<double>();
      EXPECT_TRUE(Tolerance::within(Tolerance("float32", "no").at(0), got, value)) << i << ": " << got << ", " << value;
      ++i;
    }
  }
  EXPECT_EQ(static_cast<int64_t>(i), outputs.numel());
}

TEST_F(Checkpoints, OfTheOriginalAreWrittenAgainByteForByte) {
  accelerate::Accelerator accelerator;
  const auto model = accelerator.prepare(Mlp());
  accelerator.load_model(model, fixture_path("mlp.safetensors").string());
  accelerator.save_model(model, folder_.string());
  const auto bytes = [](const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  };
  EXPECT_EQ(header_of(folder_ / "model.safetensors"), header_of(fixture_path("mlp.safetensors")));
  EXPECT_EQ(bytes(folder_ / "model.safetensors"), bytes(fixture_path("mlp.safetensors")));
}

TEST(SafetensorsOfPython, AreReadInEveryDtype) {
  const Json expected = read_fixture("every_dtype.json").at("tensors");
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const auto& [name, description] : expected.items()) {
    tensors.emplace_back(name, torch::zeros(description.at("shape").get<std::vector<int64_t>>(),
                                            torch::dtype(dtype_named(description.at("dtype")))));
  }
  accelerate::Accelerator accelerator;
  const auto model = accelerator.prepare(Holding(tensors));
  accelerator.load_model(model, fixture_path("every_dtype.safetensors").string());
  size_t compared = 0;
  for (const auto& entry : model->named_buffers()) {
    const Json& description = expected.at(entry.key());
    EXPECT_EQ(entry.value().scalar_type(), dtype_named(description.at("dtype"))) << entry.key();
    EXPECT_EQ(elements(entry.value()), description.at("values")) << entry.key();
    ++compared;
  }
  EXPECT_EQ(compared, expected.size());
}

}  // namespace
}  // namespace parity
