// A batch norm over ranks is the plain one over all their samples: outputs, gradients, running values.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/support/batch_norm_parity.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;
using parity::NormCase;
using parity::NormRun;
namespace nn = accelerate::nn;

/// Sums of up to some hundred numbers in another order.
bool close(const at::Tensor& a, const at::Tensor& b, double tolerance) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  return a.sizes() == b.sizes() && at::allclose(a.to(at::kDouble).cpu(), b.to(at::kDouble), tolerance, tolerance);
}

/// What differs between the ranks' results and the one of all samples; empty if nothing.
std::string difference(const NormCase& one, const std::vector<NormRun>& ranks, const NormRun& whole,
                       double tolerance = 1e-10) {
  const auto size = static_cast<double>(ranks.size());
  for (size_t r = 0; r < ranks.size(); ++r) {
    const auto at_rank = " of rank " + std::to_string(r);
    const NormRun& own = ranks[r];
    const auto index = static_cast<int64_t>(r);
    for (size_t pass = 0; pass < whole.outputs.size(); ++pass) {
      if (!close(own.outputs[pass], part(one, whole.outputs[pass], index), tolerance)) return "output" + at_rank;
      if (!close(own.input_gradients[pass], part(one, whole.input_gradients[pass], index), tolerance)) {
        return "gradient of the input" + at_rank;
      }
    }
    if (own.batches != whole.batches) return "number of batches" + at_rank;
    if (!close(own.running_mean, whole.running_mean, tolerance)) return "running mean" + at_rank;
    if (!close(own.running_var, whole.running_var, tolerance)) return "running variance" + at_rank;
    if (one.affine) {  // averaged over the ranks, as any parameter's
      if (!close(own.weight_gradient * size, whole.weight_gradient, tolerance))
        return "gradient of the weight" + at_rank;
      if (!close(own.bias_gradient * size, whole.bias_gradient, tolerance)) return "gradient of the bias" + at_rank;
    }
    if (one.tracks && !close(own.evaluated, part(one, whole.evaluated, index), tolerance))
      return "evaluation" + at_rank;
  }
  return "";
}

NormCase any_case() {
  NormCase one;
  const auto ranks = *rc::gen::inRange<size_t>(2, 5);
  one.rows = *rc::gen::container<std::vector<int64_t>>(ranks, rc::gen::inRange<int64_t>(0, 6));
  // Two samples on some rank, the others may have none.
  auto& most = one.rows[*rc::gen::inRange<size_t>(0, ranks)];
  most = std::max<int64_t>(most, 2);
  one.channels = *rc::gen::inRange<int64_t>(1, 5);
  one.affine = *rc::gen::arbitrary<bool>();
  one.tracks = *rc::gen::arbitrary<bool>();
  if (*rc::gen::arbitrary<bool>()) one.momentum = std::nullopt;
  one.eps = *rc::gen::element(1e-5, 0.1);
  return one;
}

RC_GTEST_PROP(SyncBatchNorm, OverRanksIsThePlainOneOverAllSamples, ()) {
  NormCase one = any_case();
  const auto dims = *rc::gen::inRange<size_t>(0, 4);
  one.area = *rc::gen::container<std::vector<int64_t>>(dims, rc::gen::inRange<int64_t>(1, 4));
  std::string found;
  if (dims < 2) {
    found = difference(one, parity::of_ranks<nn::SyncBatchNorm1d>(one), parity::of_one<torch::nn::BatchNorm1d>(one));
  } else if (dims == 2) {
    found = difference(one, parity::of_ranks<nn::SyncBatchNorm2d>(one), parity::of_one<torch::nn::BatchNorm2d>(one));
  } else {
    found = difference(one, parity::of_ranks<nn::SyncBatchNorm3d>(one), parity::of_one<torch::nn::BatchNorm3d>(one));
  }
  RC_ASSERT(found == "");
}

TEST(SyncBatchNorms, TakeAnyNumberOfDimensionsAndLayout) {
  NormCase one{.rows = {3, 0, 2}, .area = {4, 5}, .channels_last = true};
  EXPECT_EQ(difference(one, parity::of_ranks<nn::SyncBatchNorm>(one), parity::of_one<torch::nn::BatchNorm2d>(one)), "");
  one.area = {};
  one.channels_last = false;
  EXPECT_EQ(difference(one, parity::of_ranks<nn::SyncBatchNorm>(one), parity::of_one<torch::nn::BatchNorm1d>(one)), "");
}

TEST(SyncBatchNorms, OfNarrowInputsComputeInFloat32) {
  NormCase one{.rows = {6, 3}, .area = {8, 8}, .dtype = at::kBFloat16};
  // Inputs and outputs have eight bits.
  EXPECT_EQ(
      difference(one, parity::of_ranks<nn::SyncBatchNorm2d>(one), parity::of_one<torch::nn::BatchNorm2d>(one), 0.1),
      "");
  one.dtype = at::kFloat;
  EXPECT_EQ(
      difference(one, parity::of_ranks<nn::SyncBatchNorm2d>(one), parity::of_one<torch::nn::BatchNorm2d>(one), 1e-4),
      "");
}

TEST(SyncBatchNorms, OfTooFewValuesAreRefusedOnEveryRank) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(nn::SyncBatchNorm1d(3));
    EXPECT_THAT(
        [&] {
          model(at::ones({rank.rank() == 1 ? 1 : 0, 3}));
        },
        ThrowsError<UsageError>({.place = "SyncBatchNorm",
                                 .what = "There is no variance of so few values",
                                 .got = "1 for each channel, over all processes",
                                 .expected = "2 or more",
                                 .remedy = "larger batches"}));
  });
}

TEST(SyncBatchNorms, AreDifferentiatedOnce) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(nn::SyncBatchNorm1d(2));
    const at::Tensor loss = model(at::randn({4, 2}).requires_grad_()).square().sum();
    EXPECT_THAT([&] { accelerator.backward(loss, {.create_graph = true}); },
                ThrowsError<UsageError>({.place = "SyncBatchNorm",
                                         .what = "It cannot be differentiated twice",
                                         .got = "a backward pass that makes a graph",
                                         .expected = ".create_graph = false",
                                         .remedy = "plain BatchNorm"}));
  });
}

TEST(SyncBatchNorms, ArePlainAfterTrainingAndForEvaluationAlone) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    nn::SyncBatchNorm1d trained(2), evaluated(2);
    auto model = accelerator.prepare(trained);
    auto other = accelerator.prepare_model(evaluated, {.evaluation_mode = true});
    EXPECT_EQ(trained->group().size(), 2);
    EXPECT_EQ(evaluated->group().size(), 1);
    accelerator.end_training();
    EXPECT_EQ(trained->group().size(), 1);
    torch::nn::BatchNorm1d plain(2);
    const at::Tensor x = at::randn({5, 2}) + static_cast<double>(rank.rank());
    EXPECT_TRUE(at::equal(model(x), plain(x)));
  });
}

TEST(SyncBatchNorms, CannotBeJoined) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(nn::SyncBatchNorm1d(2));
    EXPECT_THAT([&] { auto join = accelerator.join_uneven_inputs({model}, {.even_batches = false}); },
                ThrowsError<UsageError>({.place = "join_uneven_inputs",
                                         .what = "A process without data cannot take part",
                                         .got = "which has one",
                                         .expected = "exchanges in backward passes alone",
                                         .remedy = "plain BatchNorm"}));
  });
}

TEST(SyncBatchNorms, InANetAreFoundByPrepareAndConvertedOnesToo) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    torch::nn::Sequential net(torch::nn::BatchNorm1d(3), torch::nn::ReLU());
    EXPECT_EQ(nn::convert_sync_batchnorm(*net), 1);
    auto model = accelerator.prepare(net);
    const at::Tensor all = at::arange(24, at::kFloat).view({8, 3}).square();
    const at::Tensor out =
        model.call([&](torch::nn::SequentialImpl& s) { return s.forward(all.narrow(0, rank.rank() * 4, 4)); });
    torch::nn::BatchNorm1d plain(3);
    EXPECT_TRUE(at::allclose(out, at::relu(plain(all)).narrow(0, rank.rank() * 4, 4), 1e-4, 1e-5));
  });
}

}  // namespace
