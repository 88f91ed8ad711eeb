#include "accelerate/tensor/bytes.h"

#include <ATen/ATen.h>

#include "accelerate/core/error.h"

namespace accelerate::internal {

void write_tensor(ByteWriter& out, const at::Tensor& tensor) {
  out.add(tensor.defined());
  if (!tensor.defined()) return;
  const at::Tensor own = tensor.detach().cpu().contiguous();
  out.add(own.scalar_type());
  out.add(own.sizes().vec());
  out.raw({static_cast<const char*>(own.const_data_ptr()), own.nbytes()});
}

at::Tensor read_tensor(ByteReader& in) {
  if (!in.get<bool>()) return {};
  const auto dtype = in.get<at::ScalarType>();
  at::Tensor tensor = at::empty(in.get<std::vector<int64_t>>(), dtype);
  const std::string_view bytes = in.raw(tensor.nbytes());
  if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

void throw_bytes_missing(size_t wanted, size_t left) {
  throw DataError({.place = "objects",
                   .what = "The bytes of an object end too early",
                   .got = std::to_string(left) + " bytes",
                   .expected = std::to_string(wanted) + " bytes",
                   .remedy = "Let Serialize<T>::read take what Serialize<T>::write wrote, in the same order"});
}

}  // namespace accelerate::internal
