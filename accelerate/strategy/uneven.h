#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace accelerate::internal {

/// One exchange of one model that the ranks which still have data are about to make.
struct Turn {
  enum class Kind : int64_t {
    kOutOfData,  ///< none: this rank does what the others do
    kFailed,     ///< none: an exception has ended this rank's loop
    kBuffers,    ///< buffers of the source rank
    kReduction,  ///< an all-reduce of `count` numbers
    kSparse,     ///< an all-reduce of the sparse gradient of parameter `count`
    kHook,       ///< the communication hook, for bucket `count`
    kEnds,       ///< how the pass ended for each of `count` parameters
    kCut,        ///< the order in which gradients came, by which buckets are cut
    kCounts,     ///< none: a sum over the ranks that cannot be, for the Counted that `count` is
  };
  Kind kind = Kind::kOutOfData;
  c10::ScalarType dtype = c10::ScalarType::Float;
  int64_t count = 0;
};

/// Whom a strategy tells before it exchanges anything in `join_uneven_inputs`.
class Turns {
 public:
  /// Returns once every rank knows of it. Throws CommError if a rank has failed or exchanges something else.
  virtual void take(Turn turn) = 0;
  /// The last of the ranks that take part in the turn with data of their own.
  virtual int64_t source() const = 0;

 protected:
  ~Turns() = default;
};

/// The side of a strategy that stands in while this rank has no data and others do.
class Shadow {
 public:
  /// From now on every exchange of the model is told to `turns`; null: no more.
  virtual void tell(Turns* turns) noexcept = 0;
  /// Takes part in the exchange that the others have announced, with nothing to add.
  virtual void shadow(const Turn& turn) = 0;
  /// Every rank takes the parameters and buffers of rank `source`.
  virtual void adopt(int64_t source) = 0;
  /// The ranks have come apart: forgets everything that has to be the same on all of them.
  virtual void start_over() = 0;

 protected:
  ~Shadow() = default;
};

}  // namespace accelerate::internal
