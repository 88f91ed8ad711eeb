#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <utility>
#include <vector>

namespace accelerate::internal {

/// Exchanges that were captured and that nothing waits for yet: what is captured next runs beside them.
class Arrivals {
 public:
  using Future = c10::intrusive_ptr<c10::ivalue::Future>;

  /// `exchange` writes `tensor`.
  void add(const at::Tensor& tensor, Future exchange) { open_.push_back({tensor.storage(), std::move(exchange)}); }
  /// Whether one of them writes the memory of `tensor`.
  bool write(const at::Tensor& tensor) const;
  /// What the current stream is given from now on comes after all of them.
  void await();
  void forget() { open_.clear(); }

 private:
  struct Open {
    c10::Storage storage;
    Future exchange;
  };
  std::vector<Open> open_;
};

}  // namespace accelerate::internal
