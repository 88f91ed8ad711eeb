#pragma once

#include <memory>
#include <string>
#include <vector>

#include "accelerate/comm/group.h"
#include "accelerate/core/log.h"
#include "accelerate/strategy/uneven.h"

namespace accelerate::internal {

/// What is counted over all ranks, none of which may be out of data.
enum class Counted : int64_t { kLosses, kSteps };

/// Ranks whose data ends at different times. Before every exchange of a model those that still have data say in one
/// small exchange which it is; those that have none listen, and take part with nothing to add. Nobody has to run the
/// same code in the same iteration: what counts is the order of the exchanges.
/// Source: `torch.distributed.algorithms.join.Join`, which counts forwards instead.
class UnevenInputs {
 public:
  struct Model {
    std::string name;
    Shadow* shadow = nullptr;
    bool joins = true;  ///< false: an exchange of it is an error
  };
  UnevenInputs(Group group, Log log, std::vector<Model> models);
  ~UnevenInputs();
  UnevenInputs(const UnevenInputs&) = delete;
  UnevenInputs& operator=(const UnevenInputs&) = delete;

  /// This rank has come to the end of its data. Returns when all have, and the models are those of the last one.
  /// Throws CommError when a rank has failed or is lost, and what the models' strategies throw.
  void finish();
  /// Throws UsageError on every rank: on those that call this and, in `finish`, on those that have no data.
  [[noreturn]] void refuse(Counted what);
  /// An exception has ended this rank's loop: the others hear of it instead of waiting.
  void fail() noexcept;

 private:
  class Speaker;
  void take(int64_t model, Turn turn);
  std::vector<int64_t> exchange(int64_t own);
  void require_one_turn(const std::vector<int64_t>& turns);

  Group group_;
  Log log_;
  std::vector<Model> models_;
  std::vector<std::unique_ptr<Speaker>> speakers_;  ///< one a model
  int64_t source_;     ///< the last rank that took part in the last turn with data of its own
  bool over_ = false;  ///< all have finished, or some rank has failed
};

/// The loops of one Accelerator in which ranks may run out of data at different times.
class OpenJoins {
 public:
  void add(UnevenInputs& inputs) { open_.push_back(&inputs); }
  void remove(const UnevenInputs& inputs) noexcept { std::erase(open_, &inputs); }
  bool any() const { return !open_.empty(); }
  /// Throws UsageError on every rank if a loop is open.
  void require_none(Counted what) const {
    if (any()) open_.back()->refuse(what);
  }

 private:
  std::vector<UnevenInputs*> open_;  ///< the innermost last
};

}  // namespace accelerate::internal
