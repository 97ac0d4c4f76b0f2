/* The submit side: sbatch, salloc, srun. */
#ifndef CMETA_SUBMIT_H
#define CMETA_SUBMIT_H

#include <stdbool.h>

#include <slurm/spank.h>

#include "settings.h"

/* Called once per submission (per component of a heterogeneous job), after all options are known.
 * Ends the process with status 1 when the job is refused; otherwise the job goes on, whatever
 * happens here. */
void cmeta_submit(spank_t spank, const struct cmeta_settings *settings, enum cmeta_mode mode);

#endif
