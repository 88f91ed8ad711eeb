#include "accelerate/cli/nearest.h"

#include <algorithm>

namespace accelerate::internal {
namespace {

/// Damerau's distance, neighbours swapped at most once.
size_t distance(std::string_view from, std::string_view to) {
  std::vector<std::vector<size_t>> cost(from.size() + 1, std::vector<size_t>(to.size() + 1));
  for (size_t i = 0; i <= from.size(); ++i) {
    for (size_t j = 0; j <= to.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const size_t changed = from[i - 1] == to[j - 1] ? 0 : 1;
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + changed});
      if (i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[from.size()][to.size()];
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& words) {
  std::string best;
  size_t least = word.size() / 3 + 1;
  for (const std::string& candidate : words) {
    const size_t changes = distance(word, candidate);
    if (changes < least) {
      best = candidate;
      least = changes;
    }
  }
  return best;
}

}  // namespace accelerate::internal
