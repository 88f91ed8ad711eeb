#pragma once

namespace accelerate::internal {

/// Lets the C library keep the memory that a training step frees for the next step. Without it glibc gives the top of
/// the heap back to the system and fetches it again, page by page, several times a step. Sets no option of the process:
/// a buffer of 31 MiB comes and goes untouched, from which glibc learns what it learns from any buffer of a host
/// program (its dynamic thresholds, mallopt(3)). A host program that sets the thresholds itself, or brings another
/// allocator, sees nothing of it.
void keep_freed_memory() noexcept;

}  // namespace accelerate::internal
