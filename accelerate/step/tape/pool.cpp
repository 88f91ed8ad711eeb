#include "accelerate/step/tape/pool.h"

#include <algorithm>

#include "accelerate/step/tape/tape.h"

namespace accelerate::internal {

void TapePool::make_room_for(const Tape& tape) const {
  auto later = std::find(tapes_.begin(), tapes_.end(), &tape);
  if (later == tapes_.end()) return;
  while (++later != tapes_.end()) (*later)->move_out(&tape);
}

}  // namespace accelerate::internal
