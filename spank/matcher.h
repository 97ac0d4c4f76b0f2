/* Runs the matcher: a child of its own process group, with a deadline, limits and a clean
 * environment. It reads the image, so that nothing the image does can reach sbatch. */
#ifndef CMETA_MATCHER_H
#define CMETA_MATCHER_H

#include <stdbool.h>

#include "answer.h"
#include "wishes.h"

struct cmeta_request {
	const char *matcher;
	const char *image;      /* absolute path */
	const struct cmeta_wishes *wishes;
	bool step;              /* of an allocation whose nodes are wishes->nodelist */
	const char *slurm_conf; /* NULL: leave it to the matcher; the same below */
	const char *config;
	bool explain;
	int deadline_ms;
};

/* Run the matcher and parse its answer. On failure returns false and puts a sentence about what
 * went wrong into *fault (heap). */
bool cmeta_matcher_run(const struct cmeta_request *request, struct cmeta_answer *answer,
		       char **fault);

#endif
