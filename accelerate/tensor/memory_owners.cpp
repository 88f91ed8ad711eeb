#include "accelerate/tensor/memory_owners.h"

#include <map>
#include <utility>

namespace accelerate::internal {

void MemoryOwners::add(MemoryOwner owner, std::weak_ptr<const void> alive, std::function<int64_t(c10::Device)> bytes) {
  std::erase_if(parts_, [](const Part& part) { return part.alive.expired(); });
  parts_.push_back({owner, std::move(alive), std::move(bytes)});
}

void MemoryOwners::add_remedy(std::weak_ptr<const void> alive, std::function<MemoryRemedy()> remedy) {
  std::erase_if(advice_, [](const Advice& advice) { return advice.alive.expired(); });
  advice_.push_back({std::move(alive), std::move(remedy)});
}

std::vector<OwnedMemory> MemoryOwners::owned() const {
  std::map<MemoryOwner, int64_t> sums;
  for (const Part& part : parts_) {
    if (const auto alive = part.alive.lock()) sums[part.owner] += part.bytes(device_);
  }
  std::vector<OwnedMemory> owned;
  for (const auto& [owner, bytes] : sums) {
    if (bytes > 0) owned.push_back({owner, bytes});
  }
  return owned;
}

std::vector<MemoryRemedy> MemoryOwners::remedies() const {
  std::vector<MemoryRemedy> remedies;
  for (const Advice& advice : advice_) {
    const auto alive = advice.alive.lock();
    if (!alive) continue;
    MemoryRemedy remedy = advice.remedy();
    if (remedy.saves > 0) remedies.push_back(std::move(remedy));
  }
  return remedies;
}

}  // namespace accelerate::internal
