// Optimizers on a GPU: the fused steps against the stock ones, and state that came into being on the CPU.
#include <ATen/record_function.h>

#include <map>
#include <string>

#include "accelerate/optim/update.h"
#include "tests/gpu/gpu.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::internal::make_update;
using training::make_batch;
using training::Mlp;
using training::mse;

using Make = std::function<std::unique_ptr<torch::optim::Optimizer>(const std::vector<at::Tensor>&)>;

struct Kind {
  const char* name;
  Make make;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

template <class Optimizer, class Options>
Make with(Options options) {
  return [options](const std::vector<at::Tensor>& p) { return std::make_unique<Optimizer>(p, options); };
}

std::vector<Kind> fused_kinds() {
  using namespace torch::optim;  // NOLINT
  return {{"AdamW", with<AdamW>(AdamWOptions(1e-2).weight_decay(0.1))},
          {"AdamWAmsgrad", with<AdamW>(AdamWOptions(1e-2).amsgrad(true))},
          {"Adam", with<Adam>(AdamOptions(1e-2).weight_decay(0.1))},
          {"Sgd", with<SGD>(SGDOptions(1e-2).weight_decay(0.1))},
          {"SgdMomentum", with<SGD>(SGDOptions(1e-2).momentum(0.9).nesterov(true))}};
}
std::vector<Kind> all_kinds() {
  using namespace torch::optim;  // NOLINT
  auto kinds = fused_kinds();
  kinds.push_back({"RmsProp", with<RMSprop>(RMSpropOptions(1e-3).momentum(0.9).centered(true))});
  kinds.push_back({"Adagrad", with<Adagrad>(AdagradOptions(1e-2))});
  return kinds;
}
const auto name_of = [](const auto& info) { return std::string(info.param.name); };

class FusedOnGpu : public gpu::OneGpu, public testing::WithParamInterface<Kind> {};

/// Parameters of three dtypes and odd shapes on the first GPU.
std::vector<at::Tensor> mixed_parameters() {
  torch::manual_seed(3);
  std::vector<at::Tensor> parameters;
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kFloat}) {
    for (const auto& shape : {std::vector<int64_t>{16, 8}, {33}, {}}) {
      parameters.push_back(torch::randn(shape, torch::kDouble).to(torch::kCUDA, dtype).requires_grad_());
    }
  }
  return parameters;
}

void set_gradients(std::vector<at::Tensor>& parameters, int step) {
  torch::manual_seed(static_cast<uint64_t>(100 + step));
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor gradient = torch::randn(parameters[i].sizes(), torch::kDouble).to(parameters[i].options());
    parameters[i].mutable_grad() = i == 1 && step % 3 == 0 ? at::Tensor() : gradient;
  }
}

TEST_P(FusedOnGpu, OneGroupOfSeveralDtypesStepsLikeTheStockOptimizer) {
  auto ours = mixed_parameters(), theirs = mixed_parameters();
  const auto stepped = GetParam().make(ours), stock = GetParam().make(theirs);
  const auto update = make_update(*stepped);
  EXPECT_THAT(std::string(update->name()), testing::StartsWith("fused"));
  for (int step = 0; step < 50; ++step) {
    set_gradients(ours, step);
    set_gradients(theirs, step);
    update->step();
    stock->step();
  }
  for (size_t i = 0; i < ours.size(); ++i) {
    // bfloat16 keeps 8 bits, and the stock step rounds to them after each of its operators.
    const auto dtype = ours[i].scalar_type();
    const double tolerance = dtype == torch::kDouble ? 1e-12 : dtype == torch::kFloat ? 1e-5 : 0.1;
    EXPECT_LT(training::distance({ours[i].to(torch::kDouble)}, {theirs[i].to(torch::kDouble)}), tolerance)
        << "parameter " << i << " of " << dtype;
  }
}

/// How often each operator ran on this thread while this lives.
class Operators {
 public:
  Operators() {
    counts().clear();
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
          ++counts()[function.name()];
          return nullptr;
        }).scopes({at::RecordScope::FUNCTION}));
  }
  ~Operators() { at::removeCallback(handle_); }
  static std::map<std::string, int>& counts() {
    thread_local std::map<std::string, int> counts;
    return counts;
  }

 private:
  at::CallbackHandle handle_;
};

TEST_P(FusedOnGpu, AStepIsOneKernelCallAndNeitherCopiesNorWaits) {
  Mlp net(1, torch::kFloat);
  net->to(torch::kCUDA);
  const auto stock = GetParam().make(net->parameters());
  const auto update = make_update(*stock);
  const auto [x, y] = make_batch(8, 1, torch::kFloat);
  mse(net(x.to(torch::kCUDA)), y.to(torch::kCUDA)).backward();
  update->step();  // makes the state
  std::map<std::string, int> ran;
  {
    const Operators watch;
    update->step();
    ran = Operators::counts();
  }
  int kernels = 0;
  for (const auto& [name, count] : ran) {
    if (name.find("accelerate::fused_") != std::string::npos) kernels += count;
    EXPECT_EQ(name.find("copy_"), std::string::npos) << name;
    EXPECT_EQ(name.find("_local_scalar_dense"), std::string::npos) << name;
  }
  EXPECT_EQ(kernels, 1);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FusedOnGpu, testing::ValuesIn(fused_kinds()), name_of);

class StateFromTheCpu : public gpu::OneGpu, public testing::WithParamInterface<Kind> {};

TEST_P(StateFromTheCpu, TrainingGoesOnAfterPrepareAsItWouldHaveOnTheCpu) {
  Mlp moved(1), stayed(1);
  const auto first = GetParam().make(moved->parameters()), second = GetParam().make(stayed->parameters());
  const auto [x, y] = make_batch(8, 1);
  for (int step = 0; step < 5; ++step) {
    for (const auto& [net, optimizer] : {std::pair(moved, first.get()), std::pair(stayed, second.get())}) {
      optimizer->zero_grad();
      mse(Mlp(net)(x), y).backward();
      optimizer->step();
    }
  }
  // The gradients of the last backward are still there: what comes now is added to them.
  Accelerator accelerator;
  auto [model, optimizer] = accelerator.prepare(moved, *first);
  for (const at::Tensor& parameter : moved->parameters()) {
    EXPECT_TRUE(parameter.is_cuda());
    EXPECT_TRUE(parameter.grad().is_cuda());
  }
  for (int step = 0; step < 10; ++step) {
    accelerator.backward(mse(model(x.to(accelerator.device())), y.to(accelerator.device())));
    optimizer.step();
    optimizer.zero_grad();
    mse(stayed(x), y).backward();
    second->step();
    second->zero_grad();
  }
  std::vector<at::Tensor> home;
  for (const at::Tensor& parameter : moved->parameters()) home.push_back(parameter.detach().cpu());
  EXPECT_LT(training::distance(home, training::copy_of(stayed->parameters())), 1e-10);
}

INSTANTIATE_TEST_SUITE_P(Kinds, StateFromTheCpu, testing::ValuesIn(all_kinds()), name_of);

}  // namespace
