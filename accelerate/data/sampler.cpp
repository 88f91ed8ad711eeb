#include "accelerate/data/sampler.h"

#include <numeric>
#include <random>
#include <utility>

namespace accelerate {
namespace {

// SplitMix64's finaliser (Steele et al., 2014): neighbouring seeds and epochs must not give related orders, and
// (seed, epoch + 1) must differ from (seed + 1, epoch).
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// std::uniform_int_distribution differs between standard libraries.
uint64_t bounded(std::mt19937_64& generator, uint64_t bound) {
  using Wide = unsigned __int128;
  Wide product = Wide{generator()} * bound;
  if (static_cast<uint64_t>(product) < bound) {
    const uint64_t threshold = (0 - bound) % bound;
    while (static_cast<uint64_t>(product) < threshold) product = Wide{generator()} * bound;
  }
  return static_cast<uint64_t>(product >> 64);
}

}  // namespace

std::vector<int64_t> sequential_order(int64_t size) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<int64_t> shuffled_order(int64_t size, uint64_t seed, int64_t epoch) {
  std::vector<int64_t> order = sequential_order(size);
  std::mt19937_64 generator(mix(mix(seed) + static_cast<uint64_t>(epoch)));
  for (uint64_t left = order.size(); left > 1; --left) std::swap(order[left - 1], order[bounded(generator, left)]);
  return order;
}

}  // namespace accelerate
