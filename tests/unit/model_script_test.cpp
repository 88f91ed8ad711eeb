// A TorchScript module and a module of unknown type as models.
#include <torch/script.h>

#include "tests/support/temporary_folder.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::Model;
using accelerate::UsageError;
using training::copy_of;
using training::distance;
using training::equal;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::MlpImpl;
using training::mse;

/// The network of training::Mlp as a script with a counter in a buffer and a second method.
torch::jit::Module script_mlp(uint64_t seed, at::ScalarType dtype = torch::kDouble) {
  const Mlp net(seed, dtype);
  torch::jit::Module hidden("Hidden"), out("Out"), script("Net");
  for (auto& [layer, part] : {std::pair(net->hidden, &hidden), std::pair(net->out, &out)}) {
    part->register_parameter("weight", layer->weight.detach().clone().requires_grad_(), false);
    part->register_parameter("bias", layer->bias.detach().clone().requires_grad_(), false);
    part->register_attribute("training", c10::BoolType::get(), true);
    part->define("def forward(self, x):\n  return torch.matmul(x, self.weight.t()) + self.bias\n");
  }
  script.register_module("hidden", hidden);
  script.register_module("out", out);
  script.register_buffer("calls", torch::zeros({}, torch::kLong));
  script.register_attribute("training", c10::BoolType::get(), true);
  script.define(R"(
def forward(self, x):
  if self.training:
    self.calls.add_(1)
  return self.out.forward(torch.tanh(self.hidden.forward(x)))
def parts(self, x):
  h = torch.tanh(self.hidden.forward(x))
  return h, [self.out.forward(h), x], {"shape": h.sum(0)}
)");
  return script;
}

std::vector<at::Tensor> parameters_of(const torch::jit::Module& script) {
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& parameter : script.parameters()) parameters.push_back(parameter);
  return parameters;
}

TEST(ScriptedModel, TrainsAsTheSameNetworkWrittenInCpp) {
  const auto [x, y] = make_batch(6, 2);
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net(1);
  auto script = script_mlp(1);
  torch::optim::AdamW adamw(parameters_of(script), 1e-2);
  auto [model, optimizer] = accelerator.prepare(script, adamw);
  auto [twin, twin_optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-2));
  for (int step = 0; step < 8; ++step) {
    const auto window = accelerator.accumulate(model, twin);
    accelerator.backward(mse(model(x).toTensor(), y));
    accelerator.backward(mse(twin(x), y));
    const auto clipped = accelerator.clip_grad_norm_(model, 0.5);
    const auto twin_clipped = accelerator.clip_grad_norm_(twin, 0.5);
    EXPECT_EQ(clipped.accumulated, step % 2 == 0);
    if (!clipped.accumulated) {
      EXPECT_NEAR(clipped.norm.item<double>(), twin_clipped.norm.item<double>(), 1e-12);
    }
    optimizer.step();
    twin_optimizer.step();
    optimizer.zero_grad();
    twin_optimizer.zero_grad();
  }
  EXPECT_LT(distance(copy_of(parameters_of(script)), copy_of(net->parameters())), 1e-12);
  EXPECT_EQ(script.attr("calls").toTensor().item<int64_t>(), 8);
}

TEST(ScriptedModel, IsOneModelHoweverOftenItIsPrepared) {
  Accelerator accelerator;
  auto script = script_mlp(1);
  auto first = accelerator.prepare(script);
  auto second = accelerator.prepare_model(script);
  auto third = accelerator.prepare(first);
  EXPECT_EQ(first.core(), second.core());
  EXPECT_EQ(first.core(), third.core());
  EXPECT_NE(first.core(), accelerator.prepare(script_mlp(1)).core());
  EXPECT_TRUE(*accelerator.unwrap_model(first) == script);
}

TEST(ScriptedModel, SwitchesBetweenTrainingAndEvaluation) {
  Accelerator accelerator;
  auto script = script_mlp(1);
  auto model = accelerator.prepare(script);
  const auto x = make_batch(2, 1).x;
  model->eval();
  EXPECT_FALSE(script.is_training());
  EXPECT_FALSE(script.attr("hidden").toModule().is_training());
  model(x);
  EXPECT_EQ(script.attr("calls").toTensor().item<int64_t>(), 0);
  model->train();
  model(x);
  EXPECT_EQ(script.attr("calls").toTensor().item<int64_t>(), 1);
}

TEST(ScriptedModel, ReturnsWhateverTheScriptReturnsInFullPrecision) {
  Accelerator accelerator({.mixed_precision = "bf16"});
  auto script = script_mlp(1, torch::kFloat);
  auto model = accelerator.prepare(script);
  const auto x = make_batch(4, 1, torch::kFloat).x;
  const c10::IValue parts = model.call("parts", x);
  ASSERT_TRUE(parts.isTuple());
  const auto& elements = parts.toTupleRef().elements();
  EXPECT_EQ(elements[0].toTensor().scalar_type(), torch::kFloat);
  EXPECT_EQ(elements[1].toTensorVector().at(0).scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::equal(elements[1].toTensorVector().at(1), x));
  EXPECT_EQ(elements[2].toGenericDict().at("shape").toTensor().scalar_type(), torch::kFloat);
  const auto plain = script.forward({x}).toTensor();
  const auto prepared = model(x).toTensor();
  EXPECT_EQ(prepared.scalar_type(), torch::kFloat);
  EXPECT_FALSE(torch::equal(plain, prepared)) << "bfloat16 rounds";
  EXPECT_LT((plain - prepared).abs().max().item<float>(), 0.05);
}

TEST(ScriptedModel, IsSavedUnderItsOwnNamesAndAsAScript) {
  const accelerate::support::TemporaryFolder folder;
  Accelerator accelerator;
  auto script = script_mlp(1), other = script_mlp(2);
  auto [model, second] = accelerator.prepare(script, other);
  accelerator.save_model(model, folder.path().string());
  accelerator.load_model(second, folder.path().string());
  EXPECT_TRUE(equal(copy_of(parameters_of(script)), copy_of(parameters_of(other))));
  // The same names as the network in C++: its files are exchangeable but for the counter.
  Mlp net(3);
  auto in_cpp = accelerator.prepare(net);
  accelerator.load_model(in_cpp, folder.path().string(), {.strict = false});
  EXPECT_TRUE(torch::equal(net->hidden->weight, script.attr("hidden").toModule().attr("weight").toTensor()));
  const std::string file = (folder.path() / "net.pt").string();
  model->save(file);
  const auto x = make_batch(2, 1).x;
  EXPECT_TRUE(torch::equal(torch::jit::load(file).forward({x}).toTensor(), model(x).toTensor()));
}

TEST(ScriptedModel, MayBeFrozenInPartAndHaveNothingToTrain) {
  const auto [x, y] = make_batch(4, 2);
  Accelerator accelerator;
  auto script = script_mlp(1);
  script.attr("hidden").toModule().attr("weight").toTensor().requires_grad_(false);
  auto model = accelerator.prepare(script);
  accelerator.backward(mse(model(x).toTensor(), y));
  EXPECT_FALSE(script.attr("hidden").toModule().attr("weight").toTensor().grad().defined());
  EXPECT_TRUE(script.attr("out").toModule().attr("weight").toTensor().grad().defined());
}

TEST(ScriptedModel, AnEmptyOneIsRefused) {
  Accelerator accelerator;
  torch::jit::Module empty;
  expect_error<UsageError>([&] { accelerator.prepare(empty); }, {"prepare", "empty holder", "built", "Build it"});
}

// What a language binding has: a module whose type it does not know, and a function that runs it.
using Forward = std::function<std::vector<at::Tensor>(torch::nn::Module&)>;

std::vector<at::Tensor> run(const Model<torch::nn::Module>& model, const Forward& forward) {
  return model.call(forward);
}

TEST(UntypedModel, RunsThroughAFunctionAndTrains) {
  const auto [x, y] = make_batch(6, 2);
  Accelerator accelerator;
  Mlp net(1), twin(1);
  const std::shared_ptr<torch::nn::Module> untyped = net.ptr();
  const std::shared_ptr<torch::optim::Optimizer> stock =
      std::make_shared<torch::optim::SGD>(untyped->parameters(), 0.1);
  auto [model, optimizer] = accelerator.prepare(untyped, stock);
  torch::optim::SGD by_hand(twin->parameters(), 0.1);
  for (int step = 0; step < 4; ++step) {
    const auto outputs = run(model, [&, &x = x](torch::nn::Module& module) {
      return std::vector<at::Tensor>{module.as<MlpImpl>()->forward(x)};
    });
    accelerator.backward(mse(outputs.at(0), y));
    accelerator.clip_grad_norm_(model, 1e9);
    optimizer.step();
    optimizer.zero_grad();
    mse(twin(x), y).backward();
    by_hand.step();
    by_hand.zero_grad();
  }
  EXPECT_LT(distance(copy_of(net->parameters()), copy_of(twin->parameters())), 1e-14);
  EXPECT_EQ(model->parameters().size(), 4u);
  EXPECT_EQ(accelerator.prepare(net).core(), model.core()) << "the same model under its own type";
}

TEST(UntypedModel, RunsInTheModelsPrecisionAndMayReturnNothing) {
  Accelerator accelerator({.mixed_precision = "bf16"});
  Mlp net(1, torch::kFloat);
  auto model = accelerator.prepare(std::shared_ptr<torch::nn::Module>(net.ptr()));
  const auto x = make_batch(4, 1, torch::kFloat).x;
  at::Tensor inside;
  model.call([&](torch::nn::Module& module) { inside = module.as<MlpImpl>()->forward(x); });
  EXPECT_EQ(inside.scalar_type(), torch::kBFloat16) << "what does not come back is not converted";
  const auto outputs =
      run(model, [&](torch::nn::Module& module) { return std::vector<at::Tensor>{module.as<MlpImpl>()->forward(x)}; });
  EXPECT_EQ(outputs.at(0).scalar_type(), torch::kFloat);
}

// A module that is nothing but its parameters is enough.
TEST(UntypedModel, MayBeParametersAlone) {
  Accelerator accelerator;
  const auto bag = std::make_shared<torch::nn::Module>("bag");
  bag->register_parameter("w", torch::full({2}, 3.0, torch::kDouble));
  auto [model, optimizer] = accelerator.prepare(bag, torch::optim::SGD(bag->parameters(), 0.5));
  const at::Tensor loss = model.call([](torch::nn::Module& module) { return module.parameters()[0].pow(2).sum(); });
  accelerator.backward(loss);
  optimizer.step();
  EXPECT_TRUE(torch::equal(bag->parameters()[0], torch::zeros({2}, torch::kDouble)));
}

}  // namespace
