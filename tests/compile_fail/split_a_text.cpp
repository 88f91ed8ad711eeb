// expect: there is nothing in this type to share out
#include "accelerate/accelerate.h"

void f(const accelerate::Accelerator& accelerator) { accelerator.split_between_processes(std::string("text")); }
