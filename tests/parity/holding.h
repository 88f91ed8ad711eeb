#pragma once

#include <torch/torch.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/parity/fixtures.h"

namespace parity {

/// A module that holds tensors of any dtype under given names, to be saved or loaded.
struct HoldingImpl : torch::nn::Module {
  explicit HoldingImpl(std::vector<std::pair<std::string, at::Tensor>> tensors) {
    for (auto& [name, tensor] : tensors) register_buffer(name, std::move(tensor));
  }
  at::Tensor forward(const at::Tensor& x) { return x; }
};
TORCH_MODULE(Holding);

/// The elements as JSON numbers, or booleans, flattened.
inline Json elements(const at::Tensor& tensor) {
  Json list = Json::array();
  const at::Tensor flat = tensor.detach().flatten();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    const at::Tensor element = flat[i];
    if (flat.scalar_type() == at::kBool) {
      list.push_back(element.item<bool>());
    } else if (at::isIntegralType(flat.scalar_type(), false)) {
      list.push_back(element.item<int64_t>());
    } else {
      list.push_back(element.item<double>());
    }
  }
  return list;
}

}  // namespace parity
