#pragma once

#include "accelerate/comm/group.h"

namespace accelerate::internal {

/// A flag that one process sets and all of them find. Source: `Accelerator.set_trigger`.
class Trigger {
 public:
  void set() { set_ = true; }
  /// Whether any process has set it since the last check that said so; then it is reset everywhere. Reached by every
  /// rank.
  bool check(const Group& group);

 private:
  bool set_ = false;
};

}  // namespace accelerate::internal
