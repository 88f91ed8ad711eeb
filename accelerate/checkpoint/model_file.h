#pragma once

#include <string>
#include <vector>

namespace accelerate {

class Group;
class Strategy;
struct StorageFormat;

struct LoadModelOptions {
  /// True: missing and unexpected keys are an error, and nothing is loaded. False: they are returned.
  /// A wrong shape is always an error.
  bool strict = true;
};

/// Keys that did not pair up; both empty after a strict load.
struct LoadModelResult {
  std::vector<std::string> missing_keys;     ///< in the model, not in the file
  std::vector<std::string> unexpected_keys;  ///< in the file, not in the model
};

namespace internal {

/// Writes every parameter and buffer of the strategy's model into one file, tied tensors once under their first name.
/// Reached by every rank of the group, as the strategy may have to collect; its rank 0 writes, and all return once the
/// file is complete or all throw. What stood at `path` before stays until the new file is complete. Throws DataError
/// when the disk refuses.
void write_model(const Strategy& strategy, const Group& group, const StorageFormat& format, const std::string& path);

/// Reads one file into the model; dtypes are converted to the model's. Everything is checked before anything is
/// changed. A tied tensor may stand under any of its names.
LoadModelResult read_model(Strategy& strategy, const StorageFormat& format, const std::string& path,
                           LoadModelOptions options);

}  // namespace internal
}  // namespace accelerate
