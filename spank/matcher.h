/* Runs the matcher: a child of its own process group, with a deadline, limits and a clean
 * environment. It reads the image, so that nothing the image does can reach sbatch. */
#ifndef CMETA_MATCHER_H
#define CMETA_MATCHER_H

#include <stdbool.h>

#include "answer.h"

struct cmeta_request {
	const char *matcher;
	const char *image;      /* absolute path */
	const char *constraint; /* NULL when the user gave none; the same below */
	const char *prefer;
	const char *slurm_conf;
	const char *config;
	bool explain;
	int deadline_ms;
};

/* Run the matcher and parse its answer. On failure returns false and puts a sentence about what
 * went wrong into *fault (heap). */
bool cmeta_matcher_run(const struct cmeta_request *request, struct cmeta_answer *answer,
		       char **fault);

#endif
