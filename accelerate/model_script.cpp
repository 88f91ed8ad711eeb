#include "accelerate/model_script.h"

#include <torch/nn/module.h>
#include <torch/script.h>

namespace accelerate {

/// The tensors in what a script returns: tensors, tuples, lists and dictionaries of them.
template <>
struct Flatten<c10::IValue> {
  template <class V>
  static void for_each(c10::IValue& value, V&& visit) {
    if (value.isTensor()) {
      at::Tensor tensor = value.toTensor();
      visit(tensor);
      value = std::move(tensor);
    } else if (value.isTuple()) {
      const auto tuple = value.toTuple();
      std::vector<c10::IValue> elements = tuple->elements().vec();
      for (c10::IValue& element : elements) for_each(element, visit);
      // A new one: the script may have returned a member of its own.
      value = c10::ivalue::Tuple::createNamed(std::move(elements), tuple->type<c10::TupleType>());
    } else if (value.isList()) {
      c10::impl::GenericList list = value.toList().copy();
      for (size_t i = 0; i < list.size(); ++i) {
        c10::IValue element = list.get(i);
        for_each(element, visit);
        list.set(i, std::move(element));
      }
      value = std::move(list);
    } else if (value.isGenericDict()) {
      c10::impl::GenericDict dictionary = value.toGenericDict().copy();
      for (auto& entry : dictionary) {
        c10::IValue element = entry.value();
        for_each(element, visit);
        entry.setValue(std::move(element));
      }
      value = std::move(dictionary);
    }
  }
};

namespace internal {
namespace {

class ScriptAsModule final : public torch::nn::Module {
 public:
  explicit ScriptAsModule(const torch::jit::Module& script)
      : Module(script.type()->name() ? script.type()->name()->name() : "torch::jit::Module"), script_(script) {
    for (const auto& entry : script.named_parameters(/*recurse=*/false)) {
      register_parameter(entry.name, entry.value, entry.value.requires_grad());
    }
    for (const auto& entry : script.named_buffers(/*recurse=*/false)) register_buffer(entry.name, entry.value);
    for (const auto& entry : script.named_children()) {
      register_module(entry.name, std::make_shared<ScriptAsModule>(entry.value));
    }
  }

  void train(bool on) override {
    Module::train(on);
    script_.train(on);
  }

  torch::jit::Module& script() { return script_; }

 private:
  torch::jit::Module script_;
};

}  // namespace

std::shared_ptr<torch::nn::Module> script_as_module(const torch::jit::Module& script) {
  try {
    script._ivalue();
  } catch (const c10::Error&) {
    return nullptr;  // a default-constructed one: refused as null
  }
  return std::make_shared<ScriptAsModule>(script);
}

std::shared_ptr<torch::jit::Module> script_of(const std::shared_ptr<torch::nn::Module>& module) {
  return {module, &std::dynamic_pointer_cast<ScriptAsModule>(module)->script()};
}

bool is_same_module(const std::shared_ptr<torch::nn::Module>& a, const std::shared_ptr<torch::nn::Module>& b) {
  if (a == b) return true;
  const auto first = std::dynamic_pointer_cast<ScriptAsModule>(a);
  const auto second = std::dynamic_pointer_cast<ScriptAsModule>(b);
  return first && second && first->script() == second->script();
}

}  // namespace internal

c10::IValue Model<torch::jit::Module>::run(const std::string& method, std::vector<c10::IValue> inputs) const {
  return internal::run_typed(
      *core(), [&](std::vector<c10::IValue> given) { return ptr()->get_method(method)(std::move(given)); },
      std::move(inputs));
}

}  // namespace accelerate
