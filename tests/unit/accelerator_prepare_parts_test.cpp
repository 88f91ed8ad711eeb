// prepare_model, prepare_optimizer, prepare_data_loader, device_placement; tied parameters; what an optimizer's handle
// forwards.
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::copy_of;
using training::distance;
using training::equal;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::MlpImpl;
using training::mse;

TEST(PrepareParts, TakeOneObjectEachAndTrainTogether) {
  const auto [x, y] = make_batch(6, 1);
  Accelerator accelerator;
  Mlp net(1), twin(1);
  auto model = accelerator.prepare_model(net);
  torch::optim::SGD sgd(net->parameters(), 0.1), by_hand(twin->parameters(), 0.1);
  auto optimizer = accelerator.prepare_optimizer(sgd);
  auto loader =
      accelerator.prepare_data_loader(accelerate::DataLoader(accelerate::TensorDataset(x, y), {.batch_size = 3}));
  for (auto& [inputs, targets] : loader) {
    accelerator.backward(mse(model(inputs), targets));
    optimizer.step();
    optimizer.zero_grad();
    mse(twin(inputs), targets).backward();
    by_hand.step();
    by_hand.zero_grad();
  }
  EXPECT_LT(distance(copy_of(net->parameters()), copy_of(twin->parameters())), 1e-14);
}

// The original checks that twice gives the same object for models; its other parts wrap twice, here none does.
TEST(PrepareParts, TwiceGiveTheSamePreparedObject) {
  Accelerator accelerator;
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 0.1);
  accelerate::DataLoader loader(accelerate::TensorDataset(torch::zeros({4, 4})), {});
  EXPECT_EQ(accelerator.prepare_model(net).core(), accelerator.prepare_model(net).core());
  EXPECT_EQ(accelerator.prepare_optimizer(sgd).core(), accelerator.prepare_optimizer(sgd).core());
  const auto prepared = accelerator.prepare_data_loader(loader);
  EXPECT_EQ(prepared.core(), accelerator.prepare_data_loader(loader).core());
  EXPECT_EQ(prepared.core(), accelerator.prepare_data_loader(prepared).core());
}

TEST(EvaluationMode, RunsInTheModelsPrecision) {
  Accelerator accelerator({.mixed_precision = "bf16"});
  Mlp net(1, torch::kFloat), twin(1, torch::kFloat);
  auto evaluated = accelerator.prepare_model(net, {.evaluation_mode = true});
  auto trained = accelerator.prepare_model(twin);
  const auto x = make_batch(4, 1, torch::kFloat).x;
  EXPECT_EQ(evaluated(x).scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::equal(evaluated(x), trained(x)));
  EXPECT_FALSE(torch::equal(evaluated(x), net(x))) << "bfloat16 rounds";
}

TEST(EvaluationMode, IsNotForgottenWhenTheModelIsToBeTrained) {
  Accelerator accelerator;
  Mlp net(1);
  auto model = accelerator.prepare_model(net, {.evaluation_mode = true});
  EXPECT_EQ(model.core(), accelerator.prepare_model(net, {.evaluation_mode = true}).core());
  torch::optim::SGD sgd(net->parameters(), 0.1);
  expect_error<UsageError>([&] { accelerator.prepare(net, sgd); },
                           {"prepare", "it again, without .evaluation_mode", "used as it is", "free_memory()"});
  accelerator.free_memory(model);
  EXPECT_NO_THROW(accelerator.prepare(net, sgd));
}

// The device "meta" shows placement without a GPU: nothing can be moved from there.
const auto kOnMeta = torch::dtype(torch::kDouble).device(torch::kMeta);

struct OnMetaImpl : torch::nn::Module {
  OnMetaImpl() { weight = register_parameter("weight", torch::zeros({4, 2}, kOnMeta)); }
  at::Tensor forward(const at::Tensor& x) { return x.matmul(weight); }
  at::Tensor weight;
};
TORCH_MODULE(OnMeta);

struct MetaBatches {
  int64_t size() const { return 4; }
  std::tuple<at::Tensor> get_batch(std::span<const int64_t> indices) const {
    return {torch::zeros({static_cast<int64_t>(indices.size()), 4}, kOnMeta)};
  }
};

TEST(DevicePlacement, OfAModelIsLeftToTheUser) {
  Accelerator accelerator;
  const auto kept = accelerator.prepare_model(OnMeta(), {.device_placement = false});
  EXPECT_TRUE(kept->weight.is_meta());
  EXPECT_TRUE(kept(torch::zeros({2, 4}, kOnMeta)).is_meta());
  EXPECT_THROW(accelerator.prepare_model(OnMeta()), c10::Error);
}

TEST(DevicePlacement, GoesByTheOrderOfTheObjects) {
  Accelerator accelerator;
  const accelerate::DataLoader loader(MetaBatches(), {.batch_size = 2});
  auto [first, second, batches] =
      accelerator.prepare({.device_placement = {true, false, false}}, Mlp(1), OnMeta(), loader);
  EXPECT_TRUE(first->out->weight.is_cpu());
  EXPECT_TRUE(second->weight.is_meta());
  for (auto& [x] : batches) EXPECT_TRUE(x.is_meta());
}

TEST(DevicePlacement, OfALoader) {
  Accelerator accelerator;
  auto stays = accelerator.prepare_data_loader(accelerate::DataLoader(MetaBatches()), {.device_placement = false});
  for (auto& [x] : stays) EXPECT_TRUE(x.is_meta());
  auto moves = accelerator.prepare_data_loader(accelerate::DataLoader(MetaBatches()));
  EXPECT_THROW(moves.begin(), c10::Error);
}

TEST(DevicePlacement, OfAnOptimizersState) {
  Accelerator accelerator;
  for (const bool placed : {true, false}) {
    Mlp net(1);
    auto model = accelerator.prepare(net);
    torch::optim::Adagrad adagrad(net->parameters());
    auto& state =
        static_cast<torch::optim::AdagradParamState&>(*adagrad.state().at(net->hidden->weight.unsafeGetTensorImpl()));
    state.sum(torch::zeros_like(net->hidden->weight, torch::kMeta));
    if (placed) {
      EXPECT_THROW(accelerator.prepare_optimizer(adagrad), c10::Error);
    } else {
      accelerator.prepare_optimizer(adagrad, {.device_placement = false});
      EXPECT_TRUE(state.sum().is_meta());
    }
  }
}

TEST(DevicePlacement, NeedsAnEntryForEachObject) {
  Accelerator accelerator;
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 0.1);
  expect_error<UsageError>([&] { accelerator.prepare({.device_placement = {true}}, net, sgd); },
                           {"prepare", "1 entries of .device_placement for 2 objects", "one for each", "Write true"});
  EXPECT_THROW(accelerator.prepare(sgd), UsageError) << "nothing was registered";
}

/// A weight under two names, as an encoder and a decoder share it.
struct TiedImpl : torch::nn::Module {
  TiedImpl() {
    torch::manual_seed(1);
    weight = register_parameter("encoder", torch::randn({4, 4}, torch::kDouble));
    register_parameter("decoder", weight);
  }
  at::Tensor forward(const at::Tensor& x) { return torch::tanh(x.matmul(weight)).matmul(weight.t()); }
  at::Tensor weight;
};
TORCH_MODULE(Tied);

template <class Optimizer, class Options>
void expect_tied_once(Options options) {
  Accelerator accelerator;
  Tied net, twin;
  ASSERT_EQ(net->parameters().size(), 2u);
  Optimizer once(std::vector<at::Tensor>{twin->weight}, options);
  auto [model, optimizer] = accelerator.prepare(net, Optimizer(net->parameters(), options));
  EXPECT_EQ(optimizer.param_groups()[0].params().size(), 1u);
  const auto x = make_batch(5, 1).x;
  for (int step = 0; step < 10; ++step) {
    accelerator.backward(model(x).pow(2).mean());
    optimizer.step();
    optimizer.zero_grad();
    twin(x).pow(2).mean().backward();
    once.step();
    once.zero_grad();
  }
  EXPECT_LT(distance({net->weight.detach()}, {twin->weight.detach()}), 1e-12);
  EXPECT_TRUE(net->parameters()[0].is_same(net->parameters()[1])) << "the model keeps both names";
}

TEST(TiedParameters, AreSteppedOnceByEveryOptimizer) {
  expect_tied_once<torch::optim::SGD>(torch::optim::SGDOptions(0.1).momentum(0.9));
  expect_tied_once<torch::optim::AdamW>(torch::optim::AdamWOptions(0.01));
  expect_tied_once<torch::optim::Adagrad>(torch::optim::AdagradOptions(0.1));
  expect_tied_once<torch::optim::RMSprop>(torch::optim::RMSpropOptions(0.01));
}

TEST(TiedParameters, InTwoGroupsStayInTheFirst) {
  Accelerator accelerator;
  Tied net;
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(std::vector<at::Tensor>{net->weight}, std::make_unique<torch::optim::SGDOptions>(0.5));
  groups.emplace_back(std::vector<at::Tensor>{net->weight}, std::make_unique<torch::optim::SGDOptions>(0.1));
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(groups, 1.0));
  EXPECT_EQ(optimizer.param_groups()[0].params().size(), 1u);
  EXPECT_EQ(optimizer.param_groups()[1].params().size(), 0u);
}

class AddParamGroup : public testing::Test {
 protected:
  Accelerator accelerator;
  Mlp net{1};
  torch::optim::SGD sgd{net->hidden->parameters(), 0.1};
};

TEST_F(AddParamGroup, IsSteppedFromThenOn) {
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  const auto [x, y] = make_batch(4, 1);
  auto options = std::make_unique<torch::optim::SGDOptions>(0.5);
  optimizer.add_param_group(torch::optim::OptimizerParamGroup(net->out->parameters(), std::move(options)));
  ASSERT_EQ(optimizer.param_groups().size(), 2u);
  EXPECT_EQ(optimizer.param_groups()[1].options().get_lr(), 0.5);
  accelerator.backward(mse(model(x), y));
  const auto expected = (net->out->bias - 0.5 * net->out->bias.grad()).detach();
  optimizer.step();
  EXPECT_LT((net->out->bias - expected).abs().max().item<double>(), 1e-15);
  optimizer.zero_grad();
  EXPECT_FALSE(net->out->bias.grad().defined());
}

TEST_F(AddParamGroup, TakesAParameterListedTwiceOnce) {
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  optimizer.add_param_group(torch::optim::OptimizerParamGroup({net->out->weight, net->out->bias, net->out->weight}));
  EXPECT_EQ(optimizer.param_groups()[1].params().size(), 2u);
}

TEST_F(AddParamGroup, RefusesStrangersAndThoseItHas) {
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  Mlp stranger(2);
  expect_error<UsageError>(
      [&, &optimizer = optimizer] {
        optimizer.add_param_group(torch::optim::OptimizerParamGroup(stranger->parameters()));
      },
      {"optimizer.add_param_group", "parameter 0 of group 1, Double [8, 4]", "models", "Give the model to prepare()"});
  expect_error<UsageError>(
      [&, &optimizer = optimizer] {
        optimizer.add_param_group(torch::optim::OptimizerParamGroup({net->out->bias, net->hidden->bias}));
      },
      {"optimizer.add_param_group", "parameter 1 of the new group", "no group yet", "param_groups()"});
  EXPECT_EQ(optimizer.param_groups().size(), 1u);
  // A model that was prepared later counts.
  auto second = accelerator.prepare(stranger);
  optimizer.add_param_group(torch::optim::OptimizerParamGroup(stranger->parameters()));
  EXPECT_EQ(optimizer.param_groups().size(), 2u);
}

/// An optimizer with two modes, as schedule-free ones have.
struct Modal : torch::optim::SGD {
  using SGD::SGD;
  void train() { mode = "train"; }
  void eval() { mode = "eval"; }
  std::string mode = "none";
};

TEST(OptimizerModes, AreForwardedToOptimizersThatHaveThem) {
  Accelerator accelerator;
  Mlp net(1), other(2);
  Modal modal(net->parameters(), 0.1);
  const auto shared = std::make_shared<Modal>(other->parameters(), 0.1);
  auto [model, second, optimizer, from_pointer] = accelerator.prepare(net, other, modal, shared);
  optimizer.train();
  from_pointer.eval();
  EXPECT_EQ(modal.mode, "train");
  EXPECT_EQ(shared->mode, "eval");
  optimizer.eval();
  EXPECT_EQ(modal.mode, "eval");
  auto plain = accelerator.prepare(torch::optim::SGD(net->parameters(), 0.1));
  EXPECT_NO_THROW(plain.train());
  EXPECT_NO_THROW(plain.eval());
}

TEST(ZeroGrad, KeepsTheMemoryWhenAsked) {
  Accelerator accelerator;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  const auto [x, y] = make_batch(4, 1);
  accelerator.backward(mse(model(x), y), {.create_graph = true});
  const void* memory = net->out->bias.grad().data_ptr();
  optimizer.zero_grad({.set_to_none = false});
  ASSERT_TRUE(net->out->bias.grad().defined());
  EXPECT_EQ(net->out->bias.grad().data_ptr(), memory);
  EXPECT_FALSE(net->out->bias.grad().requires_grad());
  EXPECT_EQ(net->out->bias.grad().abs().sum().item<double>(), 0.0);
  optimizer.zero_grad();
  EXPECT_FALSE(net->out->bias.grad().defined());
}

TEST(StepWasSkipped, IsFalseWhereNothingIsEverSkipped) {
  Accelerator accelerator;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  EXPECT_FALSE(accelerator.optimizer_step_was_skipped());
  const auto [x, y] = make_batch(4, 1);
  accelerator.backward(mse(model(x), y) * std::numeric_limits<double>::infinity());
  EXPECT_TRUE(optimizer.step().applied()) << "without loss scaling as in the original";
  EXPECT_FALSE(optimizer.step_was_skipped());
  EXPECT_FALSE(accelerator.optimizer_step_was_skipped());
}

// A check of the original: a prepared SGD optimizer survives a round trip.
TEST(OptimizerRoundTrip, APreparedOneIsSavedAndGoesOn) {
  const auto [x, y] = make_batch(4, 1);
  Accelerator accelerator;
  Mlp net(1), other(2);
  const auto options = torch::optim::SGDOptions(0.1).momentum(0.9);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), options));
  auto [second, restored] = accelerator.prepare(other, torch::optim::SGD(other->parameters(), options));
  const auto train = [&, &x = x, &y = y](auto& some_model, auto& some_optimizer) {
    accelerator.backward(mse(some_model(x), y));
    some_optimizer.step();
    some_optimizer.zero_grad();
  };
  for (int i = 0; i < 3; ++i) train(model, optimizer);
  std::stringstream saved;
  torch::save(static_cast<torch::optim::Optimizer&>(optimizer), saved);
  torch::load(static_cast<torch::optim::Optimizer&>(restored), saved);
  {
    const torch::NoGradGuard no_grad;
    for (size_t i = 0; i < 4; ++i) other->parameters()[i].copy_(net->parameters()[i]);
  }
  for (int i = 0; i < 3; ++i) {
    train(model, optimizer);
    train(second, restored);
  }
  EXPECT_TRUE(equal(copy_of(net->parameters()), copy_of(other->parameters())));
}

TEST(ExtractModel, IsTheUsersOwnModule) {
  Accelerator accelerator({.mixed_precision = "bf16"});
  Mlp net(1, torch::kFloat);
  auto model = accelerator.prepare(net);
  EXPECT_EQ(accelerate::extract_model_from_parallel(model), net.ptr());
  EXPECT_EQ(accelerator.unwrap_model(model), net.ptr());
  const auto x = make_batch(4, 1, torch::kFloat).x;
  EXPECT_TRUE(torch::equal(accelerate::extract_model_from_parallel(model)->forward(x), net(x))) << "full precision";
}

// A check of the original: what LibTorch saves of it, a model of the user's own loads, and computes the same.
TEST(ExtractModel, CanBeSavedLoadedAndRunAgain) {
  for (const char* precision : {"no", "fp16"}) {
    Accelerator accelerator({.mixed_precision = precision, .cpu = true});
    Mlp net(1, torch::kFloat);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
    const auto x = make_batch(4, 1, torch::kFloat).x;
    accelerator.backward(model(x).pow(2).mean());
    EXPECT_TRUE(optimizer.step().applied());
    std::stringstream file;
    torch::save(accelerator.unwrap_model(model), file);
    Mlp loaded(2, torch::kFloat);
    EXPECT_FALSE(torch::equal(loaded(x), net(x)));
    torch::load(loaded, file);
    EXPECT_TRUE(torch::equal(loaded(x), net(x)));
    EXPECT_TRUE(torch::equal(accelerator.unwrap_model(model)->forward(x), net(x)));
  }
}

}  // namespace
