// expect: find_executable_batch_size\(\) passes the batch size itself
#include "accelerate/accelerate.h"

void use() {
  auto run = accelerate::find_executable_batch_size([](int64_t, const char*, const char*) {});
  run(128, "hello", "world");
}
