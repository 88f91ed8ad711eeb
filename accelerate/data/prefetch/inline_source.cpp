#include "accelerate/data/prefetch/host_source.h"

namespace accelerate::internal {
namespace {

class InlineSource final : public HostSource {
 public:
  InlineSource(const Fetch& fetch, BatchIndices indices) : fetch_(fetch), indices_(std::move(indices)) {}
  HostBatch take() override { return {.slot = fetch_(indices_.next())}; }
  bool ready() override { return !indices_.at_end(); }

 private:
  const Fetch& fetch_;
  BatchIndices indices_;
};

}  // namespace

std::unique_ptr<HostSource> make_inline_source(const Fetch& fetch, BatchIndices indices) {
  return std::make_unique<InlineSource>(fetch, std::move(indices));
}

}  // namespace accelerate::internal
