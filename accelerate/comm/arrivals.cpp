#include "accelerate/comm/arrivals.h"

#include <algorithm>

namespace accelerate::internal {

bool Arrivals::write(const at::Tensor& tensor) const {
  if (open_.empty() || !tensor.defined() || !tensor.has_storage()) return false;
  const auto* storage = tensor.storage().unsafeGetStorageImpl();
  return std::ranges::any_of(open_, [&](const Open& open) { return open.storage.unsafeGetStorageImpl() == storage; });
}

void Arrivals::await() {
  for (const Open& open : std::exchange(open_, {})) open.exchange->waitAndThrow();
}

}  // namespace accelerate::internal
