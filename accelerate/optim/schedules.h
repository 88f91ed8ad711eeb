// Every schedule; includes only.
#pragma once

#include "accelerate/optim/reduce_on_plateau.h"
#include "accelerate/optim/schedule.h"
#include "accelerate/optim/schedules/combine.h"
#include "accelerate/optim/schedules/cosine.h"
#include "accelerate/optim/schedules/cycles.h"
#include "accelerate/optim/schedules/decay.h"
#include "accelerate/optim/schedules/warmup.h"
