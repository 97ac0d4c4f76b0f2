/* What the user asks of Slurm, as far as the matcher has to know it. Pure: where an option's value
 * comes from is the caller's business. */
#ifndef CMETA_WISHES_H
#define CMETA_WISHES_H

#include <stdbool.h>

struct cmeta_wishes {
	char *constraint; /* NULL when not given; the same below */
	char *prefer;
	char *partition;
	char *nodelist;
	char *exclude;
	char *clusters; /* -M: other clusters than this one, perhaps */
	char *nodes;    /* "2-4" */
	char *ntasks;
	char *cpus;     /* per task */
	char *mem;      /* "4G", as sbatch has it */
	bool odd;       /* other options say what nodes the job can have */
	bool memory; /* any option asks for memory, be it for none */
	bool gpus;   /* the same for GPUs */
};

/* The value of an option by its long name, on the heap; NULL when it is not set. */
typedef char *cmeta_get_option(const char *name);

void cmeta_wishes_read(struct cmeta_wishes *wishes, cmeta_get_option *get);

void cmeta_wishes_free(struct cmeta_wishes *wishes);

/* True when a list of generic resources ("gres:gpu:1", "gres/gpu=2", "gpu:a100:1,tape:2") has a GPU
 * or a share of one, or is "none". */
bool cmeta_gres_has_gpu(const char *list);

#endif
