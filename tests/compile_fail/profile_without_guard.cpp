// expect: keep the guard: `auto profiler = accelerator.profile\(\);`
#include "accelerate/accelerate.h"

#pragma GCC diagnostic error "-Wunused-result"
#pragma GCC diagnostic error "-Wunused-value"

void use(accelerate::Accelerator& accelerator) { accelerator.profile({.output_trace_dir = "trace"}); }
