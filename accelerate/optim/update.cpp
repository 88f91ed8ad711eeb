#include "accelerate/optim/update.h"

#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <typeinfo>

namespace accelerate::internal {
namespace {

class StockUpdate final : public Update {
 public:
  explicit StockUpdate(torch::optim::Optimizer& optimizer) : optimizer_(optimizer) {}
  void step() override { optimizer_.step(); }
  std::string_view name() const override { return "stock"; }

 private:
  torch::optim::Optimizer& optimizer_;
};

}  // namespace

std::unique_ptr<Update> make_update(torch::optim::Optimizer& optimizer) {
  const std::type_info& type = typeid(optimizer);
  if (type == typeid(torch::optim::AdamW)) return make_fused_adamw(optimizer);
  if (type == typeid(torch::optim::Adam)) return make_fused_adam(optimizer);
  if (type == typeid(torch::optim::SGD)) return make_fused_sgd(optimizer);
  return std::make_unique<StockUpdate>(optimizer);
}

}  // namespace accelerate::internal
