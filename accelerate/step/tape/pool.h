#pragma once

#include <vector>

namespace accelerate::internal {

class Tape;

/// Tapes whose work was captured into the same memory, in that order. What a tape shows to the user lies where no later
/// one writes, since it was there when that was captured; an earlier one may write there.
class TapePool {
 public:
  void add(Tape& tape) { tapes_.push_back(&tape); }
  void remove(const Tape& tape) noexcept { std::erase(tapes_, &tape); }
  /// Before `tape` writes: what later ones have shown, and the user holds, moves out of the way.
  void make_room_for(const Tape& tape) const;

 private:
  std::vector<Tape*> tapes_;
};

}  // namespace accelerate::internal
