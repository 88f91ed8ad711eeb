#pragma once

#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>

#include "accelerate/comm/world.h"

namespace accelerate::internal {

enum class Runs { kHere, kElsewhere };

/// Whether what is meant for process `index` runs here; in one process it always does. Throws UsageError, naming
/// `verb`, for an index that is no process's. Source: `PartialState.on_process`.
Runs runs_on_process(const char* verb, int64_t index, const World& world);
/// The same for the index within a host. Hosts may have different numbers of processes: an index that this one lacks
/// is another's as long as it is below the number of all.
Runs runs_on_local_process(const char* verb, int64_t index, const World& world);

/// A callable of the same signature that calls `function` or does nothing and returns a value-initialised result; a
/// reference comes back as a value, since there is nothing to refer to elsewhere.
template <class F>
auto selected(Runs runs, F function) {
  return [function = std::move(function), runs]<class... Args>(Args&&... args) mutable {
    using Result = std::remove_cvref_t<std::invoke_result_t<F&, Args...>>;
    if (runs == Runs::kHere) return static_cast<Result>(std::invoke(function, std::forward<Args>(args)...));
    return Result();
  };
}

}  // namespace accelerate::internal
