// What a prepared model takes and returns: everything that `forward` takes and returns.
#include <map>
#include <optional>
#include <tuple>

#include "tests/unit/training.h"

namespace {

using training::make_batch;
using training::Mlp;

struct Output {
  at::Tensor logits;
  std::optional<at::Tensor> loss;
  std::vector<at::Tensor> hidden;
  int64_t tokens = 0;
};

/// One entry point for each kind of result and argument.
struct ZooImpl : torch::nn::Module {
  ZooImpl() {
    torch::manual_seed(3);
    linear = register_module("linear", torch::nn::Linear(4, 2));
  }
  at::Tensor forward(const at::Tensor& x) { return linear(x); }
  std::tuple<at::Tensor, at::Tensor> pair(const at::Tensor& x) { return {linear(x), x * 2}; }
  std::vector<at::Tensor> list(const at::Tensor& x) { return {linear(x), linear(x) + 1, linear(x) + 2}; }
  std::map<std::string, at::Tensor> named(const at::Tensor& x) { return {{"logits", linear(x)}, {"double", x * 2}}; }
  Output aggregate(const at::Tensor& x, std::optional<at::Tensor> target) {
    at::Tensor logits = linear(x);
    Output output{.logits = logits, .loss = std::nullopt, .hidden = {x, logits}, .tokens = x.size(0)};
    if (target) output.loss = (logits - *target).pow(2).mean();
    return output;
  }
  std::optional<at::Tensor> maybe(const at::Tensor& x, bool wanted) {
    return wanted ? std::optional(linear(x)) : std::nullopt;
  }
  void remember(const at::Tensor& x) { remembered = linear(x); }
  int64_t count(const at::Tensor& x) const { return x.size(0); }
  at::Tensor consume(std::unique_ptr<at::Tensor> x) { return linear(*x); }
  const at::Tensor& weight() const { return linear->weight; }
  void fill(at::Tensor& output, int& calls) {
    output = linear(torch::ones({1, 4}));
    ++calls;
  }
  torch::nn::Linear linear{nullptr};
  at::Tensor remembered;
};
TORCH_MODULE(Zoo);

class ModelCall : public testing::Test {
 protected:
  accelerate::Accelerator accelerator;
  Zoo zoo;
  accelerate::Model<ZooImpl> model = accelerator.prepare(zoo);
  at::Tensor x = torch::arange(8, torch::kFloat).reshape({2, 4});
  at::Tensor logits = zoo->linear(x).detach();
};

TEST_F(ModelCall, Tensor) { EXPECT_TRUE(torch::equal(model(x), logits)); }

TEST_F(ModelCall, Tuple) {
  const auto [first, second] = model.call(&ZooImpl::pair, x);
  EXPECT_TRUE(torch::equal(first, logits));
  EXPECT_TRUE(torch::equal(second, x * 2));
}

TEST_F(ModelCall, VectorKeepsItsLength) {
  const std::vector<at::Tensor> list = model.call(&ZooImpl::list, x);
  ASSERT_EQ(list.size(), 3u);
  EXPECT_TRUE(torch::equal(list[2], logits + 2));
}

TEST_F(ModelCall, MapKeepsItsKeys) {
  const std::map<std::string, at::Tensor> named = model.call(&ZooImpl::named, x);
  ASSERT_EQ(named.size(), 2u);
  EXPECT_TRUE(torch::equal(named.at("logits"), logits));
  EXPECT_TRUE(torch::equal(named.at("double"), x * 2));
}

TEST_F(ModelCall, AggregateWithAndWithoutItsOptionalPart) {
  const Output without = model.call(&ZooImpl::aggregate, x, std::nullopt);
  EXPECT_TRUE(torch::equal(without.logits, logits));
  EXPECT_FALSE(without.loss.has_value());
  EXPECT_EQ(without.tokens, 2);
  const Output with = model.call(&ZooImpl::aggregate, x, logits + 1);
  ASSERT_TRUE(with.loss.has_value());
  EXPECT_FLOAT_EQ(with.loss->item<float>(), 1.0f);
  ASSERT_EQ(with.hidden.size(), 2u);
  EXPECT_TRUE(with.hidden[1].is_same(with.logits)) << "a tensor that occurs twice stays one tensor in full precision";
}

TEST_F(ModelCall, Optional) {
  EXPECT_TRUE(torch::equal(model.call(&ZooImpl::maybe, x, true).value(), logits));
  EXPECT_FALSE(model.call(&ZooImpl::maybe, x, false).has_value());
}

TEST_F(ModelCall, VoidMethodRuns) {
  static_assert(std::is_void_v<decltype(model.call(&ZooImpl::remember, x))>);
  model.call(&ZooImpl::remember, x);
  EXPECT_TRUE(torch::equal(model->remembered, logits));
}

TEST_F(ModelCall, NumberAndConstMethod) { EXPECT_EQ(model.call(&ZooImpl::count, x), 2); }

TEST_F(ModelCall, MoveOnlyArgument) {
  auto owned = std::make_unique<at::Tensor>(x);
  EXPECT_TRUE(torch::equal(model.call(&ZooImpl::consume, std::move(owned)), logits));
  EXPECT_EQ(owned, nullptr);
}

TEST_F(ModelCall, ReferenceArgumentsReachTheCaller) {
  at::Tensor output;
  int calls = 0;
  model.call(&ZooImpl::fill, output, calls);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(torch::equal(output, zoo->linear(torch::ones({1, 4}))));
}

TEST_F(ModelCall, ReferenceResultIsTheSameTensor) {
  EXPECT_TRUE(model.call(&ZooImpl::weight).is_same(zoo->linear->weight));
}

TEST_F(ModelCall, FunctionObjectOfTheUsersOwn) {
  const auto twice = [](ZooImpl& net, const at::Tensor& input) {
    return net.forward(net.forward(input).repeat({1, 2}));
  };
  EXPECT_TRUE(torch::equal(model.call(twice, x), zoo->forward(logits.repeat({1, 2}))));
}

TEST_F(ModelCall, GradientsFlowThroughEveryKindOfResult) {
  const std::vector<std::function<at::Tensor()>> losses{
      [&] { return model(x).sum(); },
      [&] { return std::get<0>(model.call(&ZooImpl::pair, x)).sum(); },
      [&] { return model.call(&ZooImpl::list, x)[1].sum(); },
      [&] { return model.call(&ZooImpl::named, x).at("logits").sum(); },
      [&] { return model.call(&ZooImpl::aggregate, x, std::nullopt).logits.sum(); },
      [&] { return model.call(&ZooImpl::maybe, x, true)->sum(); },
  };
  for (const auto& loss : losses) {
    zoo->zero_grad();
    accelerator.backward(loss());
    EXPECT_TRUE(torch::equal(zoo->linear->bias.grad(), torch::full({2}, 2.0f)));
  }
}

TEST_F(ModelCall, MembersAreTheUsersOwn) {
  EXPECT_TRUE(model->linear->weight.is_same(zoo->linear->weight));
  EXPECT_EQ(&*model, zoo.get());
  EXPECT_EQ(model.ptr(), zoo.ptr());
  EXPECT_EQ(accelerator.unwrap_model(model), zoo.ptr());
  model->eval();
  EXPECT_FALSE(zoo->is_training());
}

TEST_F(ModelCall, AnExceptionComesOutUnchangedAndTheModelStillRuns) {
  struct Stop {
    int code;
  };
  const auto stop = [](ZooImpl&) -> at::Tensor { throw Stop{7}; };
  try {
    model.call(stop);
    FAIL() << "nothing was thrown";
  } catch (const Stop& caught) {
    EXPECT_EQ(caught.code, 7);
  }
  EXPECT_TRUE(torch::equal(model(x), logits));
}

TEST(ModelCallHolders, SequentialAndStockModulesNeedNoClass) {
  accelerate::Accelerator accelerator;
  torch::nn::Sequential sequential(torch::nn::Linear(4, 3), torch::nn::Tanh(), torch::nn::Linear(3, 1));
  torch::nn::Linear linear(4, 2);
  auto [first, second] = accelerator.prepare(sequential, linear);
  const auto x = torch::ones({5, 4});
  EXPECT_TRUE(torch::equal(first(x), sequential->forward(x)));
  EXPECT_TRUE(torch::equal(second(x), linear(x)));
}

TEST(ModelCallHolders, RecurrentModuleReturnsItsNestedTuple) {
  accelerate::Accelerator accelerator;
  torch::nn::LSTM lstm(torch::nn::LSTMOptions(4, 3));
  auto model = accelerator.prepare(lstm);
  const auto x = torch::ones({2, 1, 4});
  const auto [output, state] = model(x);
  const auto [hidden, cell] = state;
  EXPECT_EQ(output.sizes(), (std::vector<int64_t>{2, 1, 3}));
  EXPECT_EQ(hidden.sizes(), cell.sizes());
  const auto [again, last] = model(x, std::tuple(hidden, cell));
  EXPECT_FALSE(torch::equal(output, again)) << "the state that was handed in is used";
}

TEST(ModelCallHolders, SharedPointerToABaseKeepsTheDerivedForward) {
  struct Base : torch::nn::Module {
    virtual at::Tensor forward(at::Tensor x) { return x; }
  };
  struct Derived : Base {
    at::Tensor forward(at::Tensor x) override { return x + 1; }
  };
  accelerate::Accelerator accelerator;
  const std::shared_ptr<Base> net = std::make_shared<Derived>();
  auto model = accelerator.prepare(net);
  EXPECT_EQ(model(torch::zeros({1})).item<float>(), 1.0f);
  auto derived = accelerator.prepare(std::static_pointer_cast<Derived>(net));
  EXPECT_EQ(derived.core(), model.core());
}

}  // namespace
