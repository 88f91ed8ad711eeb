#pragma once

#include <iterator>
#include <type_traits>
#include <utility>

#include "accelerate/tracking/progress_bar.h"

namespace accelerate {

/// A range whose passes are shown: `for (auto& [x, y] : accelerator.tqdm(loader, std::cerr))`. Lvalues are borrowed.
/// Each pass counts from 0; one that is left early is closed when this is destroyed.
template <class Range>
class Tqdm : public ProgressBar {
  using Inner = decltype(std::begin(std::declval<Range&>()));
  using Sentinel = decltype(std::end(std::declval<Range&>()));

 public:
  Tqdm(Range&& range, std::ostream& out, TqdmOptions options)
      : ProgressBar(out, with_total(range, std::move(options))), range_(std::forward<Range>(range)) {}

  struct End {
    Sentinel inner;
  };
  class Iterator {
   public:
    using difference_type = std::ptrdiff_t;
    using value_type = std::remove_cvref_t<decltype(*std::declval<Inner&>())>;
    Iterator(Inner inner, ProgressBar* bar) : inner_(std::move(inner)), bar_(bar) {}
    decltype(auto) operator*() const { return *inner_; }
    Iterator& operator++() {
      bar_->update();
      ++inner_;
      return *this;
    }
    void operator++(int) { ++*this; }
    /// At the end the bar is closed, so that what the program writes next comes below it.
    bool operator==(const End& end) const {
      const bool ended = inner_ == end.inner;
      if (ended) bar_->close();
      return ended;
    }

   private:
    Inner inner_;
    ProgressBar* bar_;
  };

  Iterator begin() {
    reset();
    return Iterator(std::begin(range_), this);
  }
  End end() { return End{std::end(range_)}; }

 private:
  static TqdmOptions with_total(const std::remove_reference_t<Range>& range, TqdmOptions options) {
    if constexpr (requires { std::size(range); }) {
      if (!options.total) options.total = static_cast<int64_t>(std::size(range));
    }
    return options;
  }
  Range range_;
};

}  // namespace accelerate
