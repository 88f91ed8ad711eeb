#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <unordered_map>

namespace accelerate::internal {

/// The float32 values that parameters of 16 bits are the rounded copies of. Whoever writes a parameter past this class
/// is right: where it is not the rounded master any more, the master becomes what it is; where it is, as after weights
/// that were put away and back, the master keeps its digits. Other memory is another weight.
class MasterWeights {
 public:
  /// `values`, of the parameter's shape, become its master; they are not copied.
  void adopt(const at::Tensor& parameter, const at::Tensor& values);
  /// The master as the parameter is now, made if there is none.
  const at::Tensor& of(const at::Tensor& parameter);
  /// Null: it has none, or none yet.
  const at::Tensor* find(const at::Tensor& parameter) const;
  /// The parameter has been written from its master.
  void written(const at::Tensor& parameter);

  int64_t bytes_on(c10::Device device) const;

 private:
  struct Master {
    at::Tensor parameter;  ///< keeps its address from being another's
    at::Tensor values;
    /// When the parameter was written last from the values.
    struct Seen {
      uint32_t parameter = 0, values = 0;  ///< versions
      const void* memory = nullptr;        ///< of the parameter
    } seen;
  };
  static bool is_current(const Master& master, const at::Tensor& parameter);
  static void note(Master& master);
  std::unordered_map<const void*, Master> masters_;
};

}  // namespace accelerate::internal
