/* The options of sbatch, salloc and srun, reached without their header files.
 *
 * spank.h has no way to read or change a native option. The clients export their option table
 * (`opt`), and libslurmfull the functions that work on it by name, with the same signatures in
 * 22.05, 24.11 and 26.05 (src/common/slurm_opt.h). They are looked up at run time: without those that
 * read, the plugin does nothing; without those that change, it hands over what job_submit.lua applies. */
#ifndef CMETA_SLURM_CLIENT_H
#define CMETA_SLURM_CLIENT_H

#include <stdbool.h>

/* True when this process is a client whose options can be read. */
bool cmeta_client_usable(void);

/* The value of an option by its long name, on the heap; NULL when it is not set, or when memory is short:
 * see cmeta_client_is_complete(). */
char *cmeta_client_get(const char *name);

/* False once a value could not be had for want of memory. What looks like an option that is not set may
 * then be one that the user gave, and must not be changed. */
bool cmeta_client_is_complete(void);

/* Set an option, and look whether that worked. */
bool cmeta_client_set(const char *name, const char *value);

/* As if the option had never been given. Does nothing where Slurm has no function for it. */
void cmeta_client_reset(const char *name);

#endif
