#include "accelerate/comm/backends/shm/exchange.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace accelerate::internal::shm {
namespace {

constexpr int kAll = -1;
constexpr size_t kLine = 64;

// Up to here every rank reduces everything itself after one fence; measured: beyond it the second fence is cheaper than
// the double work.
constexpr size_t kSmallBytes = 8192;

// Results go to the buffer and to the tensor while they are in the first-level cache.
constexpr size_t kStripBytes = 16 << 10;

void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes != 0) std::memcpy(to, from, bytes);
}

using Parts = std::span<const std::span<const std::byte>>;

size_t bytes_of(Parts parts) {
  size_t bytes = 0;
  for (const auto& part : parts) bytes += part.size();
  return bytes;
}

/// Calls `visit(part, offset in it, offset from begin, bytes)` for what lies in [begin, begin + most) of the parts,
/// taken as one after the other.
template <class Visit>
void for_each_piece(Parts parts, size_t begin, size_t most, const Visit& visit) {
  size_t start = 0;  // of the part
  for (size_t i = 0; i < parts.size() && start < begin + most; start += parts[i].size(), ++i) {
    const size_t from = std::max(begin, start), to = std::min(begin + most, start + parts[i].size());
    if (from < to) visit(i, from - start, from - begin, to - from);
  }
}

// At least one: tensors without elements meet at a fence too.
size_t chunks_of(size_t total, size_t chunk) { return total == 0 ? 1 : (total + chunk - 1) / chunk; }

}  // namespace

Exchange::Exchange(Segment& segment, Fence& fence, int rank)
    : segment_(segment), fence_(fence), rank_(rank), size_(segment.ranks()), sources_(size_) {}

// When may a buffer be written again? At the time chunk k is given, this rank has waited for the end of everybody's
// step k - 2, so that others may still be in step k - 1, where they combine chunk k - 2 and take chunk k - 3: the
// buffers of k, k - 1, k - 2 and k - 3 have to be four. The last step ends without an arrival: nobody waits for it
// before the next call's first step does.
static_assert(Segment::kBuffers >= 4);

template <class Give, class Take>
void Exchange::two_steps(size_t chunks, const Give& give, const Take& take) {
  for (size_t step = 0; step <= chunks; ++step) {
    if (step < chunks) give(step);
    if (step > 0) {
      fence_.wait();
      take(step - 1);
    }
    if (step < chunks) fence_.arrive();
  }
  next_ += chunks;
}

template <class Give, class Combine, class Take>
void Exchange::three_steps(size_t chunks, const Give& give, const Combine& combine, const Take& take) {
  for (size_t step = 0; step <= chunks + 1; ++step) {
    if (step < chunks) give(step);
    if (step > 0) fence_.wait();
    if (step > 0 && step <= chunks) combine(step - 1);
    if (step > 1) take(step - 2);
    if (step <= chunks) fence_.arrive();
  }
  next_ += chunks;
}

Exchange::Part Exchange::part(int rank, size_t elements) const noexcept {
  // Whole cache lines of the smallest type, so that no two ranks write to one.
  const size_t even = (elements + size_ - 1) / size_;
  const size_t share = (even + kLine - 1) / kLine * kLine;
  const size_t start = std::min(elements, share * rank), end = std::min(elements, start + share);
  return {start, end - start};
}

size_t Exchange::chunk_elements(const Reduction& reduction) const noexcept {
  return segment_.buffer_bytes() / reduction.element_bytes;
}

void Exchange::barrier() {
  two_steps(
      1, [](size_t) {}, [](size_t) {});
}

void Exchange::all_reduce(std::byte* data, size_t elements, const Reduction& reduction) {
  if (elements * reduction.element_bytes <= kSmallBytes) {
    reduce_small(data, elements, reduction, kAll);
  } else {
    reduce_long(data, elements, reduction, kAll);
  }
}

void Exchange::reduce(std::byte* data, size_t elements, const Reduction& reduction, int root) {
  if (elements * reduction.element_bytes <= kSmallBytes) {
    reduce_small(data, elements, reduction, root);
  } else {
    reduce_long(data, elements, reduction, root);
  }
}

void Exchange::reduce_small(std::byte* data, size_t elements, const Reduction& reduction, int only) {
  const size_t bytes = elements * reduction.element_bytes;
  two_steps(
      1, [&](size_t chunk) { copy_bytes(mine(chunk), data, bytes); },
      [&](size_t chunk) {
        if (only != kAll && only != rank_) return;
        for (int rank = 0; rank < size_; ++rank) sources_[rank] = of(rank, chunk);
        reduction.kernel(data, sources_.data(), size_, elements);
      });
}

void Exchange::reduce_long(std::byte* data, size_t elements, const Reduction& reduction, int only) {
  const size_t item = reduction.element_bytes, most = chunk_elements(reduction), strip = kStripBytes / item;
  const auto count_of = [&](size_t chunk) { return std::min(most, elements - chunk * most); };
  const auto keep = only == kAll || only == rank_;

  const auto give = [&](size_t chunk) {  // what the others combine
    const std::byte* from = data + chunk * most * item;
    for (int rank = 0; rank < size_; ++rank) {
      if (rank == rank_) continue;
      const Part theirs = part(rank, count_of(chunk));
      copy_bytes(mine(chunk) + theirs.start * item, from + theirs.start * item, theirs.count * item);
    }
  };
  const auto combine = [&](size_t chunk) {
    const Part own = part(rank_, count_of(chunk));
    std::byte* local = data + chunk * most * item;
    for (size_t done = 0; done < own.count; done += strip) {
      const size_t at = (own.start + done) * item, n = std::min(strip, own.count - done);
      for (int rank = 0; rank < size_; ++rank) sources_[rank] = (rank == rank_ ? local : of(rank, chunk)) + at;
      reduction.kernel(mine(chunk) + at, sources_.data(), size_, n);
      if (keep) copy_bytes(local + at, mine(chunk) + at, n * item);
    }
  };
  const auto take = [&](size_t chunk) {  // what the others combined
    if (!keep) return;
    std::byte* to = data + chunk * most * item;
    for (int distance = 1; distance < size_; ++distance) {
      const int rank = (rank_ + distance) % size_;
      const Part theirs = part(rank, count_of(chunk));
      copy_bytes(to + theirs.start * item, of(rank, chunk) + theirs.start * item, theirs.count * item);
    }
  };
  three_steps(chunks_of(elements, most), give, combine, take);
}

void Exchange::reduce_scatter(std::span<const std::byte* const> parts, std::byte* out, size_t elements,
                              const Reduction& reduction) {
  const size_t item = reduction.element_bytes;
  const size_t stride = segment_.buffer_bytes() / size_ / kLine * kLine, most = stride / item;
  const auto count_of = [&](size_t chunk) { return std::min(most, elements - chunk * most); };
  two_steps(
      chunks_of(elements, most),
      [&](size_t chunk) {
        for (int rank = 0; rank < size_; ++rank) {
          if (rank == rank_) continue;
          copy_bytes(mine(chunk) + stride * rank, parts[rank] + chunk * most * item, count_of(chunk) * item);
        }
      },
      [&](size_t chunk) {
        for (int rank = 0; rank < size_; ++rank) {
          sources_[rank] = rank == rank_ ? parts[rank] + chunk * most * item : of(rank, chunk) + stride * rank_;
        }
        reduction.kernel(out + chunk * most * item, sources_.data(), size_, count_of(chunk));
      });
}

void Exchange::broadcast(std::byte* data, size_t bytes, int root) {
  const size_t most = segment_.buffer_bytes();
  const auto bytes_of = [&](size_t chunk) { return std::min(most, bytes - chunk * most); };
  two_steps(
      chunks_of(bytes, most),
      [&](size_t chunk) {
        if (rank_ == root) copy_bytes(mine(chunk), data + chunk * most, bytes_of(chunk));
      },
      [&](size_t chunk) {
        if (rank_ != root) copy_bytes(data + chunk * most, of(root, chunk), bytes_of(chunk));
      });
}

void Exchange::all_gather(const std::byte* data, std::span<std::byte* const> outs, size_t bytes) {
  const size_t most = segment_.buffer_bytes();
  const auto bytes_of = [&](size_t chunk) { return std::min(most, bytes - chunk * most); };
  two_steps(
      chunks_of(bytes, most), [&](size_t chunk) { copy_bytes(mine(chunk), data + chunk * most, bytes_of(chunk)); },
      [&](size_t chunk) {
        if (outs.empty()) return;
        for (int distance = 0; distance < size_; ++distance) {
          const int rank = (rank_ + distance) % size_;
          copy_bytes(outs[rank] + chunk * most, of(rank, chunk), bytes_of(chunk));
        }
      });
}

void Exchange::compare_lists(Parts parts) {
  // FNV-1a over the sizes. Where not all are equal every rank sees one that differs from its own.
  uint64_t own = 0xcbf29ce484222325;
  for (const auto& part : parts) own = (own ^ part.size()) * 0x100000001b3;
  const auto shown = [&](int rank) { return reinterpret_cast<uint64_t*>(of(rank, 0)); };
  int other = rank_;
  two_steps(
      1, [&](size_t) { *shown(rank_) = own; },
      [&](size_t) {
        for (int rank = size_; rank-- > 0;) {
          if (*shown(rank) != own) other = rank;
        }
      });
  if (other == rank_) return;
  fence_.fail({.place = "all_gather_coalesced",
               .what = "The ranks gather lists of tensors of different sizes",
               .got = "a list of " + std::to_string(parts.size()) + " tensors on rank " + std::to_string(rank_) +
                      " whose sizes are not those of rank " + std::to_string(other),
               .expected = fence_.expectation() + " with tensors of the same sizes in the same order",
               .remedy = "Exchange the sizes first"});
}

void Exchange::all_gather_list(Parts parts, std::span<std::byte* const> outs) {
  compare_lists(parts);
  const size_t most = segment_.buffer_bytes();
  two_steps(
      chunks_of(bytes_of(parts), most),
      [&](size_t chunk) {
        for_each_piece(parts, chunk * most, most, [&](size_t i, size_t in_part, size_t in_buffer, size_t bytes) {
          copy_bytes(mine(chunk) + in_buffer, parts[i].data() + in_part, bytes);
        });
      },
      [&](size_t chunk) {
        for (int distance = 0; distance < size_; ++distance) {
          const int rank = (rank_ + distance) % size_;
          for_each_piece(parts, chunk * most, most, [&](size_t i, size_t in_part, size_t in_buffer, size_t bytes) {
            copy_bytes(outs[i] + parts[i].size() * rank + in_part, of(rank, chunk) + in_buffer, bytes);
          });
        }
      });
}

void Exchange::scatter(std::span<const std::byte* const> parts, std::byte* out, size_t bytes, int root) {
  const size_t most = segment_.buffer_bytes() / size_ / kLine * kLine;
  const auto bytes_of = [&](size_t chunk) { return std::min(most, bytes - chunk * most); };
  two_steps(
      chunks_of(bytes, most),
      [&](size_t chunk) {
        if (rank_ != root) return;
        for (int rank = 0; rank < size_; ++rank) {
          copy_bytes(mine(chunk) + most * rank, parts[rank] + chunk * most, bytes_of(chunk));
        }
      },
      [&](size_t chunk) { copy_bytes(out + chunk * most, of(root, chunk) + most * rank_, bytes_of(chunk)); });
}

void Exchange::compare_sizes(std::span<const std::span<const std::byte>> send,
                             std::span<const std::span<std::byte>> receive, size_t& longest) {
  // Every rank shows what it sends and expects; all see all, so that all come to the same answer.
  std::string disagreement;
  const auto shown = [&](int rank, size_t chunk) { return reinterpret_cast<uint64_t*>(of(rank, chunk)); };
  two_steps(
      1,
      [&](size_t chunk) {
        for (int rank = 0; rank < size_; ++rank) {
          shown(rank_, chunk)[rank] = send[rank].size();
          shown(rank_, chunk)[size_ + rank] = receive[rank].size();
        }
      },
      [&](size_t chunk) {
        for (int from = 0; from < size_; ++from) {
          for (int to = 0; to < size_; ++to) {
            const uint64_t sent = shown(from, chunk)[to], expected = shown(to, chunk)[size_ + from];
            longest = std::max(longest, static_cast<size_t>(sent));
            if (sent == expected || !disagreement.empty()) continue;
            disagreement = "rank " + std::to_string(from) + " sending " + std::to_string(sent) + " bytes to rank " +
                           std::to_string(to) + ", which expects " + std::to_string(expected);
          }
        }
      });
  if (disagreement.empty()) return;
  fence_.fail({.place = "all_to_all",
               .what = "The split sizes of the ranks do not fit together",
               .got = disagreement,
               .expected = fence_.expectation() + " with the output split of each being the input split of the other",
               .remedy = "Exchange the sizes first"});
}

void Exchange::all_to_all(std::span<const std::span<const std::byte>> send,
                          std::span<const std::span<std::byte>> receive) {
  size_t longest = 0;
  compare_sizes(send, receive, longest);
  const size_t most = segment_.buffer_bytes() / size_ / kLine * kLine;
  const auto bytes_of = [&](size_t size, size_t chunk) {
    return size <= chunk * most ? 0 : std::min(most, size - chunk * most);
  };
  two_steps(
      chunks_of(longest, most),
      [&](size_t chunk) {
        for (int rank = 0; rank < size_; ++rank) {
          const size_t bytes = bytes_of(send[rank].size(), chunk);
          if (bytes != 0) copy_bytes(mine(chunk) + most * rank, send[rank].data() + chunk * most, bytes);
        }
      },
      [&](size_t chunk) {
        for (int rank = 0; rank < size_; ++rank) {
          const size_t bytes = bytes_of(receive[rank].size(), chunk);
          if (bytes != 0) copy_bytes(receive[rank].data() + chunk * most, of(rank, chunk) + most * rank_, bytes);
        }
      });
}

}  // namespace accelerate::internal::shm
