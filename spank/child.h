/* A child that may touch what a user named. A process that waits for a dead file system cannot be
 * interrupted, so it has to be one that can be left behind. */
#ifndef CMETA_CHILD_H
#define CMETA_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

/* In the child, after fork(): /dev/null (null_fd) takes the place of stdin and stderr, answer_fd that
 * of stdout, and nothing else stays open: a child that is left behind must keep nobody's pipe open.
 * Both descriptors have to be above 2. It ends with its parent. False when that cannot be had. Safe
 * between fork() and exec(). */
bool cmeta_child_begin(pid_t parent, int null_fd, int answer_fd);

/* The same descriptor, moved above 2; -1 when there is none. Closed on exec. */
int cmeta_child_fd(int fd);

/* Wait, for at most 0.2 s, until the child ends; kill it first unless leave is true. Returns its wait
 * status, or -1 when it did not end by itself. With group the whole group that it leads is ended. */
int cmeta_child_end(pid_t pid, bool leave, bool group);

#endif
