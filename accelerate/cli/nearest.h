#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace accelerate::internal {

/// The one of `words` that takes the fewest changed, added, lost or swapped letters; empty if even that takes more than
/// a third of the word.
std::string nearest(std::string_view word, const std::vector<std::string>& words);

}  // namespace accelerate::internal
