// expect: free_memory\(\) empties prepared handles, holders and pointers
#include "accelerate/accelerate.h"

void use(accelerate::Accelerator& accelerator) {
  struct Mine {
  } mine;
  accelerator.free_memory(mine);
}
