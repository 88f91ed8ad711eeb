#include "accelerate/data/active_loaders.h"

#include <algorithm>

namespace accelerate {

void ActiveLoaders::leave(const LoaderProgress* pass) {
  passes_.erase(std::remove(passes_.begin(), passes_.end(), pass), passes_.end());
}

}  // namespace accelerate
