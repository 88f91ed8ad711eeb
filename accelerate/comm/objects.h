#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

#include "accelerate/comm/group.h"
#include "accelerate/tensor/bytes.h"

namespace accelerate::internal {

/// Every rank's bytes, where the exchange put them.
struct GatheredBytes {
  at::Tensor memory;
  std::vector<std::string_view> ranks;  ///< in rank order, parts of `memory`
};
/// Lengths may differ; one exchange for short ones. In a group of one a copy.
GatheredBytes gather_bytes(const Group& group, std::string_view own);
/// The same as texts of their own.
std::vector<std::string> all_gather_bytes(const Group& group, std::string_view own);

/// Every rank's number, in rank order.
std::vector<int64_t> all_gather_numbers(const Group& group, int64_t own);

/// The bytes of rank `from`, on every rank.
std::string broadcast_bytes(const Group& group, std::string own, int64_t from);

/// A list of texts as bytes and back.
std::string join_texts(const std::vector<std::string>& texts);
std::vector<std::string> split_texts(std::string_view bytes);

/// Nothing of it can be gathered as a tensor.
template <class T>
concept WithoutTensors = contents<T>()
!= Contents::kTensors;

/// Throws CommError naming both types, unless `sent` is `own`; both as `typeid` names them.
void require_type(const char* operation, const std::string& sent, const char* own);

/// A list of objects as bytes with its type in front. The ranks of a group run one binary, where it has one name.
template <class T>
std::string pack_objects(const std::vector<T>& objects) {
  ByteWriter out;
  out.add(std::string(typeid(T).name()));
  out.add(objects);
  return out.take();
}
/// Appends what `pack_objects` made.
template <class T>
void unpack_objects(const char* operation, std::string_view bytes, std::vector<T>& objects) {
  ByteReader in(bytes);
  require_type(operation, in.get<std::string>(), typeid(T).name());
  auto list = in.get<std::vector<T>>();
  objects.insert(objects.end(), std::make_move_iterator(list.begin()), std::make_move_iterator(list.end()));
}

}  // namespace accelerate::internal
