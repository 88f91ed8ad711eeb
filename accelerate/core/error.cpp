#include "accelerate/core/error.h"

#include <utility>

namespace accelerate {
namespace {

std::string compose(const ErrorText& text) {
  std::string out = "[" + text.place + "] " + text.what;
  if (!text.got.empty()) out += ": got " + text.got;
  if (!text.expected.empty()) out += (text.got.empty() ? ": expected " : ", expected ") + text.expected;
  out += ".";
  if (!text.remedy.empty()) out += " " + text.remedy + ".";
  return out;
}

}  // namespace

Error::Error(ErrorText text) : std::runtime_error(compose(text)), text_(std::move(text)) {}

}  // namespace accelerate
