#pragma once

#include <memory>

#include "accelerate/plan.h"
#include "accelerate/preparation.h"
#include "accelerate/tensor/memory_owners.h"

namespace accelerate::internal {

/// Counts what `prepared` holds on the plan's device; both and `sync` must outlive it.
std::shared_ptr<MemoryOwners> owners_of(const PreparedObjects& prepared, const Plan& plan,
                                        const std::shared_ptr<SyncSchedule>& sync);

/// Counts the models among `items` that are not prepared yet, as long as the token lives.
std::shared_ptr<const void> count_in(MemoryOwners& owners, std::span<const PrepareItem> items,
                                     const PreparedObjects& prepared);

}  // namespace accelerate::internal
