#include "accelerate/tensor/shape.h"

#include <ATen/ATen.h>

#include <sstream>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

std::string described(const at::Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  std::ostringstream out;
  out << "a tensor of shape " << tensor.sizes() << " and dtype " << tensor.scalar_type();
  return out.str();
}

}  // namespace

TensorInformation information_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {.shape = tensor.sizes().vec(), .dtype = tensor.scalar_type()};
}

at::Tensor initialized(const TensorInformation& information) {
  if (information.dtype == c10::ScalarType::Undefined) return {};
  return at::empty(information.shape, information.dtype);
}

at::Tensor readable(const at::Tensor& tensor) {
  if (tensor.is_complex()) {
    throw UsageError({.place = "listify",
                      .what = "Complex numbers have no list of numbers",
                      .got = described(tensor),
                      .expected = "real ones",
                      .remedy = "Pass at::view_as_real(tensor)"});
  }
  const at::Tensor host = tensor.detach().cpu().contiguous();
  return at::isIntegralType(host.scalar_type(), /*includeBool=*/true) ? host.to(at::kLong) : host.to(at::kDouble);
}

void throw_other_depth(const at::Tensor& tensor, int64_t depth) {
  throw UsageError({.place = "listify",
                    .what = "The tensor has other dimensions than the list",
                    .got = described(tensor),
                    .expected = std::to_string(depth) + " dimensions, one for each std::vector",
                    .remedy = "Name the list that fits: listify<std::vector<double>>(tensor) for one dimension"});
}

void throw_fraction(const at::Tensor& tensor) {
  throw UsageError({.place = "listify",
                    .what = "Fractions do not fit into a list of whole numbers",
                    .got = described(tensor),
                    .expected = "a list of float or double",
                    .remedy = "Name such a list, or convert the tensor"});
}

}  // namespace accelerate::internal
