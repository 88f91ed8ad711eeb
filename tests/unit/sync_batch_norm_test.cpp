// Synchronised batch norms in one process: drop-in types, and which plain ones can be replaced.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <sstream>

#include "accelerate/accelerate.h"
#include "accelerate/nn/sync_batch_norm.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::UsageError;
using accelerate::support::ThrowsError;
namespace nn = accelerate::nn;

std::vector<std::string> keys_of(const torch::nn::Module& module) {
  std::vector<std::string> keys = module.named_parameters().keys();
  for (const std::string& key : module.named_buffers().keys()) keys.push_back(key);
  return keys;
}

TEST(SyncBatchNormType, IsThePlainOneInOneProcess) {
  accelerate::Accelerator accelerator({.cpu = true});
  const auto options = torch::nn::BatchNormOptions(3).eps(0.01).momentum(0.3);
  nn::SyncBatchNorm2d sync(options);
  torch::nn::BatchNorm2d plain(options);
  auto model = accelerator.prepare(sync);
  EXPECT_EQ(keys_of(*sync), keys_of(*plain));
  for (int batch = 0; batch < 2; ++batch) {
    const at::Tensor x = at::randn({4, 3, 2, 2});
    EXPECT_TRUE(torch::equal(model(x), plain(x)));
  }
  EXPECT_TRUE(torch::equal(sync->running_var, plain->running_var));
  sync->eval();
  plain->eval();
  const at::Tensor x = at::randn({4, 3, 2, 2});
  EXPECT_TRUE(torch::equal(model(x), plain(x)));
  EXPECT_ANY_THROW(sync(at::ones({4, 3}))) << "two dimensions, of four";
}

TEST(SyncBatchNormType, ReadsWhatAPlainOneWrote) {
  torch::nn::BatchNorm1d plain(4);
  plain(at::randn({6, 4}));
  std::stringstream file;
  torch::save(plain, file);
  nn::SyncBatchNorm1d sync(4);
  torch::load(sync, file);
  EXPECT_TRUE(torch::equal(sync->running_mean, plain->running_mean));
  EXPECT_EQ(sync->num_batches_tracked.item<int64_t>(), 1);
}

TEST(SyncBatchNormType, IsCopiedAsWhatItIs) {
  nn::SyncBatchNorm3d sync(2);
  sync->to(torch::kDouble);
  sync(at::randn({3, 2, 2, 2, 2}, at::kDouble));
  sync->weight.requires_grad_(false);
  sync->eval();
  const auto copy = std::dynamic_pointer_cast<nn::SyncBatchNorm3dImpl>(sync->clone());
  ASSERT_NE(copy, nullptr);
  EXPECT_EQ(keys_of(*copy), keys_of(*sync));
  EXPECT_TRUE(torch::equal(copy->running_mean, sync->running_mean));
  EXPECT_FALSE(copy->weight.requires_grad());
  EXPECT_TRUE(copy->bias.requires_grad());
  EXPECT_FALSE(copy->is_training());
  EXPECT_EQ(copy->named_parameters()["bias"].unsafeGetTensorImpl(), copy->bias.unsafeGetTensorImpl());
  {
    const torch::NoGradGuard no_grad;
    copy->running_mean.fill_(7);
    copy->bias.fill_(7);
  }
  EXPECT_NE(sync->running_mean[0].item<double>(), 7);
  EXPECT_NE(sync->bias[0].item<double>(), 7);
  std::ostringstream text;
  text << *copy;
  EXPECT_EQ(text.str(), "accelerate::nn::SyncBatchNorm3d(2, eps=1e-05)");
}

TEST(SyncBatchNormType, OfAnyDimensionsHasTwoAtLeast) {
  nn::SyncBatchNorm sync(3);
  EXPECT_EQ(sync(at::randn({4, 3})).sizes(), (std::vector<int64_t>{4, 3}));
  EXPECT_EQ(sync(at::randn({4, 3, 2, 2, 2})).dim(), 5);
  EXPECT_THAT([&] { sync(at::ones({3})); }, ThrowsError<UsageError>({.place = "SyncBatchNorm",
                                                                     .what = "The input has too few dimensions",
                                                                     .got = "1",
                                                                     .expected = "2 or more",
                                                                     .remedy = "unsqueeze(0)"}));
}

struct BlockImpl : torch::nn::Module {
  BlockImpl() { register_module("body", body); }
  at::Tensor forward(const at::Tensor& x) { return body->forward(x); }
  torch::nn::Sequential body{torch::nn::BatchNorm1d(torch::nn::BatchNormOptions(3).affine(false)), torch::nn::ReLU()};
};
TORCH_MODULE(Block);

TEST(ConvertSyncBatchNorm, ReplacesThoseInSequentialsWithTheirTensors) {
  torch::nn::Sequential net(torch::nn::Linear(4, 3), torch::nn::BatchNorm1d(3), Block());
  net->to(torch::kDouble);
  net->forward(at::randn({5, 4}, at::kDouble));
  net->eval();
  const auto keys = keys_of(*net);
  const auto parameters = net->parameters();
  const at::Tensor x = at::randn({5, 4}, at::kDouble);
  const at::Tensor before = net->forward(x);
  EXPECT_EQ(nn::convert_sync_batchnorm(*net), 2);
  EXPECT_EQ(keys_of(*net), keys);
  const auto after = net->parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ(after[i].unsafeGetTensorImpl(), parameters[i].unsafeGetTensorImpl()) << "an optimizer knows it by that";
  }
  EXPECT_TRUE(torch::equal(net->forward(x), before));
  EXPECT_NE(dynamic_cast<nn::SyncBatchNorm1dImpl*>(net->children()[1].get()), nullptr);
  EXPECT_EQ(nn::convert_sync_batchnorm(*net), 0) << "there is none left";
}

struct TypedImpl : torch::nn::Module {
  TypedImpl() {
    register_module("body", body);
    register_module("norm", norm);
  }
  torch::nn::Sequential body{torch::nn::BatchNorm2d(2)};
  torch::nn::BatchNorm2d norm{2};
};

TEST(ConvertSyncBatchNorm, RefusesMembersWhoseTypeIsFixedAndChangesNothing) {
  const auto net = std::make_shared<TypedImpl>();
  EXPECT_THAT([&] { nn::convert_sync_batchnorm(*net); },
              ThrowsError<UsageError>({.place = "convert_sync_batchnorm",
                                       .what = "The type of a member cannot be replaced",
                                       .got = "norm",
                                       .expected = "torch::nn::Sequential",
                                       .remedy = "Declare these as accelerate::nn::SyncBatchNorm1d"}));
  EXPECT_EQ(dynamic_cast<nn::SyncBatchNorm2dImpl*>(net->body->children()[0].get()), nullptr);
  torch::nn::BatchNorm1d alone(2);
  EXPECT_THROW(nn::convert_sync_batchnorm(*alone), UsageError);
}

}  // namespace
