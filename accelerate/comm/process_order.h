#pragma once

#include <cstdint>

#include "accelerate/comm/group.h"
#include "accelerate/core/log.h"

namespace accelerate {

/// The guard of `main_process_first()`: the body runs on the processes that go first, and only when they have left it
/// on the others. When the body throws on one that went first, the others' call throws CommError instead of waiting.
/// Source: `PartialState.main_process_first`, which leaves them waiting.
class [[nodiscard("keep the guard: `auto order = accelerator.main_process_first();`")]] ProcessOrder {
 public:
  enum class Turn { kFirst, kAfterwards };
  /// Reached by every rank of the group. `verb` is a literal for messages. With `kAfterwards` returns when all that go
  /// first have left. Throws CommError when one of these left with an exception, or is lost.
  ProcessOrder(const char* verb, Turn turn, Group group, Log log);
  /// Lets the others go on. What fails there is logged: their next collective fails too.
  ~ProcessOrder();
  ProcessOrder(ProcessOrder && other) noexcept;
  ProcessOrder& operator=(ProcessOrder&&) = delete;

  /// Lets the others go on now, before the end of the block. Throws what the destructor only logs.
  void finish();

 private:
  void meet(int64_t failures);
  const char* verb_;
  Group group_;
  Log log_;
  int exceptions_;
  bool pending_;  ///< others wait for this process
};

}  // namespace accelerate
