#pragma once

#include <memory>
#include <optional>

#include "accelerate/model.h"

namespace accelerate {

/// A model whose exchanges `join_uneven_inputs` covers.
class Joinable {
 public:
  template <class M>
  Joinable(const Model<M>& model) : core_(model.core()) {}  // NOLINT: `join_uneven_inputs({model, critic})`
  const std::shared_ptr<internal::ModelCore>& core() const { return core_; }

 private:
  std::shared_ptr<internal::ModelCore> core_;
};

struct JoinOptions {
  std::optional<bool> even_batches = {};  ///< of all prepared loaders while the guard lives; unset: what they have
};

namespace internal {
class JoinScope;
}

/// The guard of `join_uneven_inputs`. Loaders have their own `even_batches` again when it has ended.
class [[nodiscard("keep the guard: `auto join = accelerator.join_uneven_inputs({model});`")]] UnevenJoin {
 public:
  explicit UnevenJoin(std::unique_ptr<internal::JoinScope> scope);
  /// After an exception tells the other processes, which get a CommError instead of waiting. Otherwise does what
  /// `finish` does; what goes wrong there is logged, and thrown by the next training verb of the Accelerator.
  ~UnevenJoin();
  UnevenJoin(UnevenJoin &&) noexcept;
  UnevenJoin& operator=(UnevenJoin&&) = delete;

  /// This process has no more data: takes part in what the others do until they have none either. Throws CommError when
  /// one has left with an exception or is lost, and the UsageError that the others get. Does nothing a second time.
  void finish();

 private:
  std::unique_ptr<internal::JoinScope> scope_;
};

}  // namespace accelerate
