/* A child with a deadline. What a user named may lie on a file system that never answers: it is
 * looked at in a child, which can be left behind, and never in sbatch or in slurmstepd. */
#ifndef CMETA_CHILD_H
#define CMETA_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum cmeta_child_end {
	CMETA_CHILD_ANSWERED, /* all of it, or it has closed its output */
	CMETA_CHILD_LATE,
	CMETA_CHILD_TALKATIVE, /* it has more to say than there is room for */
};

struct cmeta_child {
	pid_t pid;
	int answer_fd;
};

/* Start a child of its own process group that calls body(context) and ends with its parent. Its
 * signals are the default ones, stdin and stderr are /dev/null, stdout leads to answer_fd, and no
 * other descriptor is open. body does only what is safe between fork() and exec(); when it returns,
 * the child ends with status 127. Returns false, with errno set, when there is no child. */
bool cmeta_child_start(struct cmeta_child *child, void (*body)(const void *context),
		       const void *context);

/* Read until is_complete() or the end of the output, at most size bytes, at the latest until the time
 * of cmeta_now_ms() is `until`. */
enum cmeta_child_end cmeta_child_read(const struct cmeta_child *child, long until, char *buffer,
				      size_t size, size_t *length,
				      bool (*is_complete)(const char *text, size_t length));

/* End the child's whole group, and collect the child; with leave it may first finish by itself. Takes
 * at most 0.2 s. Returns its wait status, or -1 when it did not end by itself: a process that waits
 * for a dead file system cannot even be killed, only left behind. */
int cmeta_child_end(struct cmeta_child *child, bool leave);

#endif
