// save_model and load_model: whose keys, which values, and nothing changed when anything is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "tests/support/storage.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tensors.h"

namespace accelerate {
namespace {

using support::format_named;
using support::same_bytes;
using support::TemporaryFolder;
using support::Tensors;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct ConvNetImpl : torch::nn::Module {
  ConvNetImpl() {
    conv = register_module("conv", torch::nn::Conv2d(1, 3, 3));
    norm = register_module("norm", torch::nn::BatchNorm2d(3));
    head = register_module("head", torch::nn::Linear(3, 2));
  }
  torch::Tensor forward(const torch::Tensor& x) { return head(norm(conv(x)).relu().mean({2, 3})); }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::BatchNorm2d norm{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(ConvNet);

/// One tensor under two names, as an embedding and an output layer share it.
struct TiedImpl : torch::nn::Module {
  TiedImpl() {
    embedding = register_parameter("embedding", torch::randn({5, 4}));
    output = register_parameter("output", embedding);
  }
  torch::Tensor embedding, output;
};
TORCH_MODULE(Tied);

/// Parameters of every awkward kind.
struct OddImpl : torch::nn::Module {
  OddImpl() {
    number = register_parameter("number", torch::randn({}));
    empty = register_parameter("empty", torch::randn({0, 3}));
    transposed = register_parameter("transposed", torch::randn({3, 5}).t());
    half = register_parameter("half", torch::randn({4}).to(torch::kHalf));
    frozen = register_parameter("frozen", torch::randn({4}), /*requires_grad=*/false);
    counter = register_buffer("counter", torch::full({}, 3, torch::kLong));
    mask = register_buffer("mask", torch::ones({2, 2}, torch::kBool));
    absent = register_buffer("absent", torch::Tensor());
  }
  torch::Tensor number, empty, transposed, half, frozen, counter, mask, absent;
};
TORCH_MODULE(Odd);

Tensors copy_of(const torch::nn::Module& module) {
  Tensors out;
  for (const auto& item : module.named_parameters()) out[item.key()] = item.value().detach().clone();
  for (const auto& item : module.named_buffers()) {
    if (item.value().defined()) out[item.key()] = item.value().clone();
  }
  return out;
}

void scramble(torch::nn::Module& module) {
  const torch::NoGradGuard no_grad;
  for (auto& tensor : module.parameters()) tensor.fill_(-9);
  for (auto& tensor : module.buffers()) {
    if (tensor.defined()) tensor.fill_(0);
  }
}

void expect_same(const torch::nn::Module& module, const Tensors& expected) {
  const Tensors now = copy_of(module);
  ASSERT_EQ(now.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(same_bytes(now.at(name), tensor)) << name;
}

struct ModelFile : ::testing::Test {
  TemporaryFolder folder;
  Accelerator accelerator;
  std::string file() const { return folder / "model.safetensors"; }
  Tensors saved() const { return support::load(format_named("safetensors"), file()); }
  void write(const Tensors& tensors) const { support::save(format_named("safetensors"), file(), tensors); }
};

TEST_F(ModelFile, ParametersAndBuffersComeBackAfterTraining) {
  const auto model = accelerator.prepare(ConvNet());
  accelerator.backward(model(torch::randn({8, 1, 6, 6})).square().mean());  // moves the running statistics as well
  const Tensors before = copy_of(*model);
  EXPECT_EQ(before.at("norm.num_batches_tracked").item<int64_t>(), 1);
  accelerator.save_model(model, folder.path().string());
  EXPECT_THAT(folder.names(), ElementsAre("model.safetensors"));
  const auto fresh = accelerator.prepare(ConvNet());
  const LoadModelResult result = accelerator.load_model(fresh, folder.path().string());
  EXPECT_THAT(result.missing_keys, IsEmpty());
  EXPECT_THAT(result.unexpected_keys, IsEmpty());
  expect_same(*fresh, before);
  model->eval();
  fresh->eval();
  const torch::Tensor x = torch::randn({2, 1, 6, 6});
  EXPECT_TRUE(same_bytes(model(x), fresh(x)));
}

TEST_F(ModelFile, KeysAreTheModulesOwnAndTheFormatIsNamed) {
  const auto model = accelerator.prepare(ConvNet());
  accelerator.save_model(model, folder.path().string());
  std::vector<std::string> keys;
  const Tensors tensors = saved();
  for (const auto& [name, tensor] : tensors) keys.push_back(name);
  EXPECT_THAT(keys, ElementsAre("conv.bias", "conv.weight", "head.bias", "head.weight", "norm.bias",
                                "norm.num_batches_tracked", "norm.running_mean", "norm.running_var", "norm.weight"));
  EXPECT_EQ(format_named("safetensors").open(file())->metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}}));
}

TEST_F(ModelFile, AFileAndItsFolderAreTheSameToLoad) {
  const auto model = accelerator.prepare(ConvNet());
  accelerator.save_model(model, folder / "deep/below");
  const Tensors before = copy_of(*model);
  for (const std::string path : {"deep/below", "deep/below/", "deep/below/model.safetensors"}) {
    scramble(*model);
    accelerator.load_model(model, folder / path);
    expect_same(*model, before);
  }
}

TEST_F(ModelFile, LoadingKeepsTensorsGradientsAndFlags) {
  const auto model = accelerator.prepare(ConvNet());
  accelerator.backward(model(torch::randn({2, 1, 6, 6})).sum());
  accelerator.save_model(model, folder.path().string());
  const torch::Tensor weight = model->head->weight;
  const torch::Tensor gradient = weight.grad().clone();
  const auto* impl = weight.unsafeGetTensorImpl();
  scramble(*model);
  accelerator.load_model(model, file());
  EXPECT_EQ(model->head->weight.unsafeGetTensorImpl(), impl) << "optimizers know parameters by this address";
  EXPECT_TRUE(weight.requires_grad());
  EXPECT_TRUE(weight.is_leaf());
  EXPECT_TRUE(same_bytes(weight.grad(), gradient));
}

TEST_F(ModelFile, NumbersEmptyStridedFrozenAndLowPrecisionTensors) {
  const auto model = accelerator.prepare(Odd());
  const Tensors before = copy_of(*model);
  const auto strides = model->transposed.strides().vec();
  accelerator.save_model(model, folder.path().string());
  EXPECT_EQ(saved().size(), 7U) << "an undefined buffer has no bytes to save";
  scramble(*model);
  accelerator.load_model(model, file());
  expect_same(*model, before);
  EXPECT_EQ(model->transposed.strides().vec(), strides);
  EXPECT_FALSE(model->frozen.requires_grad());
}

TEST_F(ModelFile, ASecondSaveReplacesTheFirst) {
  const auto model = accelerator.prepare(ConvNet());
  accelerator.save_model(model, folder.path().string());
  scramble(*model);
  accelerator.save_model(model, folder.path().string());
  EXPECT_TRUE(same_bytes(saved().at("head.weight"), torch::full({2, 3}, -9.0F)));
  EXPECT_THAT(folder.names(), ElementsAre("model.safetensors"));
}

TEST_F(ModelFile, SavingWorksAfterTrainingHasEnded) {
  const auto model = accelerator.prepare(ConvNet());
  accelerator.end_training();
  accelerator.save_model(model, folder.path().string());
  accelerator.load_model(model, folder.path().string());
  EXPECT_EQ(saved().size(), 9U);
}

// Tied tensors: saved once, found under any of their names.

TEST_F(ModelFile, TiedTensorsAreSavedOnceUnderTheirFirstName) {
  const auto model = accelerator.prepare(Tied());
  accelerator.save_model(model, folder.path().string());
  const Tensors tensors = saved();
  ASSERT_EQ(tensors.size(), 1U);
  EXPECT_TRUE(same_bytes(tensors.at("embedding"), model->embedding));
}

TEST_F(ModelFile, TiedTensorsAreFoundUnderAnyOfTheirNames) {
  const torch::Tensor value = torch::arange(20, torch::kFloat).view({5, 4});
  for (const std::vector<std::string>& names :
       std::vector<std::vector<std::string>>{{"embedding"}, {"output"}, {"embedding", "output"}}) {
    const auto model = accelerator.prepare(Tied());
    Tensors tensors;
    for (const std::string& name : names) tensors[name] = value;
    write(tensors);
    const LoadModelResult result = accelerator.load_model(model, file());
    EXPECT_THAT(result.missing_keys, IsEmpty());
    EXPECT_THAT(result.unexpected_keys, IsEmpty());
    EXPECT_TRUE(same_bytes(model->embedding, value));
    EXPECT_TRUE(same_bytes(model->output, value));
    EXPECT_TRUE(model->output.is_same(model->embedding)) << "the tie must not be cut";
  }
}

// Dtypes: the model's stays, the values are converted.

TEST_F(ModelFile, EveryRealDtypeIsConvertedToTheModels) {
  for (const auto dtype :
       {torch::kDouble, torch::kFloat, torch::kHalf, torch::kBFloat16, torch::kLong, torch::kInt, torch::kShort,
        torch::kChar, torch::kByte, torch::kUInt16, torch::kUInt32, torch::kUInt64, torch::kBool, torch::kFloat8_e5m2,
        torch::kFloat8_e4m3fn, torch::kFloat8_e4m3fnuz, torch::kFloat8_e5m2fnuz, torch::kFloat8_e8m0fnu}) {
    const auto model = accelerator.prepare(torch::nn::Linear(2, 1));
    const torch::Tensor ones = torch::ones({1, 2}).to(dtype);
    write({{"weight", ones}, {"bias", torch::ones({1}).to(dtype)}});
    accelerator.load_model(model, file());
    EXPECT_TRUE(same_bytes(model->weight, torch::ones({1, 2}))) << dtype;
  }
}

RC_GTEST_PROP(ModelFileProperty, WiderFilesAreRoundedAsACastDoes, ()) {
  const TemporaryFolder folder;
  Accelerator accelerator;
  const auto model = accelerator.prepare(torch::nn::Linear(3, 2));
  model->to(*rc::gen::element(torch::kFloat, torch::kHalf, torch::kBFloat16));
  const auto dtype = model->weight.scalar_type();
  const torch::Tensor weight = torch::randn({2, 3}, torch::kDouble) * 100, bias = torch::randn({2}, torch::kDouble);
  support::save(format_named("safetensors"), folder / "a", {{"weight", weight}, {"bias", bias}});
  accelerator.load_model(model, folder / "a");
  RC_ASSERT(static_cast<bool>(same_bytes(model->weight, weight.to(dtype))));
  RC_ASSERT(static_cast<bool>(same_bytes(model->bias, bias.to(dtype))));
}

// Not strict: what fits is loaded, the rest is returned.

TEST_F(ModelFile, WithoutStrictMissingAndUnexpectedKeysAreReturned) {
  const auto model = accelerator.prepare(torch::nn::Linear(2, 1));
  const Tensors before = copy_of(*model);
  write({{"weight", torch::full({1, 2}, 5.0F)}, {"z", torch::zeros({1})}, {"a.b", torch::zeros({2})}});
  const LoadModelResult result = accelerator.load_model(model, file(), {.strict = false});
  EXPECT_THAT(result.missing_keys, ElementsAre("bias"));
  EXPECT_THAT(result.unexpected_keys, ElementsAre("a.b", "z"));
  EXPECT_TRUE(same_bytes(model->weight, torch::full({1, 2}, 5.0F)));
  EXPECT_TRUE(same_bytes(model->bias, before.at("bias")));
}

TEST_F(ModelFile, WithoutStrictAFileOfStrangersLoadsNothing) {
  const auto model = accelerator.prepare(torch::nn::Linear(2, 1));
  const Tensors before = copy_of(*model);
  write({{"other", torch::zeros({1})}});
  const LoadModelResult result = accelerator.load_model(model, file(), {.strict = false});
  EXPECT_THAT(result.missing_keys, ElementsAre("weight", "bias"));
  EXPECT_THAT(result.unexpected_keys, ElementsAre("other"));
  expect_same(*model, before);
}

TEST_F(ModelFile, WithoutStrictATiedTensorIsMissingOnce) {
  const auto model = accelerator.prepare(Tied());
  write({});
  EXPECT_THAT(accelerator.load_model(model, file(), {.strict = false}).missing_keys, ElementsAre("embedding"));
}

}  // namespace
}  // namespace accelerate
