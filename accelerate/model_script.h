#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/model.h"

namespace c10 {
struct IValue;
}
namespace torch::jit {
struct Module;
}

namespace accelerate {
namespace internal {

/// The parameters and buffers of a scripted module as those of a torch::nn::Module, the same tensors under the same
/// names; `train` and `to` reach the script.
std::shared_ptr<torch::nn::Module> script_as_module(const torch::jit::Module& script);
/// The script behind such a module.
std::shared_ptr<torch::jit::Module> script_of(const std::shared_ptr<torch::nn::Module>& module);
/// Whether two modules are one to `prepare`: the same object, or stand for the same script.
bool is_same_module(const std::shared_ptr<torch::nn::Module>& a, const std::shared_ptr<torch::nn::Module>& b);

}  // namespace internal

/// A prepared TorchScript module (`torch::jit::load`). Its optimizer is built over its parameters, which are the same
/// tensors. The types of calls come with `<torch/script.h>`. A parameter replaced by `setattr` after `prepare` is not
/// seen.
template <>
class Model<torch::jit::Module> {
 public:
  using module_type = torch::jit::Module;
  Model(std::shared_ptr<torch::jit::Module> module, std::shared_ptr<internal::ModelCore> core)
      : module_(std::move(module)), core_(std::move(core)) {}

  /// Runs `forward` in the model's precision: `model(x).toTensor()`.
  template <class... Args>
  auto operator()(Args&&... args) const {
    return call("forward", std::forward<Args>(args)...);
  }
  /// Another method of the script: `model.call("encode", x)`.
  template <class... Args, class Value = c10::IValue>
  Value call(const std::string& method, Args&&... args) const {
    std::vector<Value> inputs;
    inputs.reserve(sizeof...(Args));
    (inputs.emplace_back(std::forward<Args>(args)), ...);
    return run(method, std::move(inputs));
  }

  /// `model->train()`, `model->eval()`, `model->save("net.pt")`.
  torch::jit::Module* operator->() const { return ptr().get(); }
  torch::jit::Module& operator*() const { return *ptr(); }
  const std::shared_ptr<torch::jit::Module>& ptr() const { return internal::held(module_, "model"); }
  const std::shared_ptr<internal::ModelCore>& core() const { return internal::held(core_, "model"); }
  bool empty() const { return core_ == nullptr; }

 private:
  c10::IValue run(const std::string& method, std::vector<c10::IValue> inputs) const;
  std::shared_ptr<torch::jit::Module> module_;
  std::shared_ptr<internal::ModelCore> core_;
};

}  // namespace accelerate
