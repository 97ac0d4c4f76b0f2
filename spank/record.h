/* What became of a submission, as one line of a log: `cmeta decision {JSON}` (docs/report.md). The
 * controller writes it for the jobs that reach it (lua/cmeta_log.lua); those that are refused here never
 * do, and their line goes to this host's log. */
#ifndef CMETA_RECORD_H
#define CMETA_RECORD_H

#include <stdbool.h>

#include "answer.h"

/* All of it is the user's, or an image's; NULL where there is nothing. */
struct cmeta_refusal {
	const char *name;       /* the job's */
	const char *partition;
	const char *constraint; /* the user's own */
	const char *image;
	const struct cmeta_answer *answer;
	long ms;                /* that the decision took */
	bool step;
};

/* How long the decision took, and where it came from: "12 cache", "140 matcher"; on the heap. */
char *cmeta_record_took(long ms, bool cached);

/* The line, of printable ASCII characters alone and at most some 5,000 of them, on the heap; NULL when
 * memory is short. */
char *cmeta_record_refusal(const struct cmeta_refusal *refusal);

/* Send a line to the system's log at a socket (/dev/log) as one datagram. Never waits: where nobody reads,
 * or the log is full, the line is lost and false returned. */
bool cmeta_record_send(const char *socket_path, const char *line);

#endif
