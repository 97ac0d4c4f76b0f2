/* The node side: the last guard, and the start of the task inside the image. */
#ifndef CMETA_TASK_H
#define CMETA_TASK_H

#include <slurm/spank.h>

#include "settings.h"

/* Called in the task's own process, as the user, before exec. Does nothing for a task without an
 * image of ours. Where the image cannot run on this machine, says why and ends the task with status
 * 126; where it cannot be read, or not in time, 127. Where Slurm has no oci.conf, arranges that the task is started by
 * cmeta-run inside the image. */
void cmeta_task_init(spank_t spank, const struct cmeta_settings *settings);

#endif
