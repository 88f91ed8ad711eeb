#pragma once

#include <rapidcheck.h>

#include <cstdint>
#include <string>
#include <vector>

#include "accelerate/optim/schedules.h"

// Random schedules of every kind, with options that are allowed.
namespace training {

struct NamedSchedule {
  std::string name;
  accelerate::Schedule schedule;
  int64_t warmup_steps = 0;  ///< for those that warm up linearly to 1
  bool reaches_one = false;  ///< and have 1 at the end of the warm-up
};

double any_number(double from, double to);
int64_t any_count(int64_t from, int64_t to);
template <class T>
T any_of(std::vector<T> choices) {
  return choices[static_cast<size_t>(any_count(0, static_cast<int64_t>(choices.size())))];
}

/// One of each kind. Base rates of 0.1 and more are above every minimum.
std::vector<NamedSchedule> any_schedules();

}  // namespace training
