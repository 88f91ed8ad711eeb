#pragma once

#include <stdexcept>
#include <string>

namespace accelerate {

/// The parts of an error message; empty parts are left out of the text.
struct ErrorText {
  std::string place = {};     ///< where in the user's words: "prepare", "DataLoader", "mixed_precision"
  std::string what = {};      ///< what is wrong
  std::string got = {};       ///< the value found, in the user's spelling
  std::string expected = {};  ///< what would have been right
  std::string remedy = {};    ///< the next thing to type or change
};

/// Every error of this library. Text: `[place] What is wrong: got X, expected Y. What to do.`
class Error : public std::runtime_error {
 public:
  explicit Error(ErrorText text);
  const ErrorText& text() const noexcept { return text_; }

 private:
  ErrorText text_;
};

/// Options or environment variables that contradict each other or cannot be met.
class ConfigError : public Error {
  using Error::Error;
};

/// Calls in an order, or on objects, that cannot give right numbers.
class UsageError : public Error {
  using Error::Error;
};

/// A file, data set or batch that is not what it claims to be.
class DataError : public Error {
  using Error::Error;
};

/// Ranks that could not exchange what they had to.
class CommError : public Error {
  using Error::Error;
};

}  // namespace accelerate
