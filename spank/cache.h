/* The decision cache (docs/protocol.md): answers that the matcher kept for this user, and that hold
 * while the files which they were drawn from are what they were. */
#ifndef CMETA_CACHE_H
#define CMETA_CACHE_H

#include <stdbool.h>
#include <stddef.h>

/* A request as it stands in an entry: the words of the matcher's command line, each ended by a NUL. */
struct cmeta_cache_request {
	char *text;
	size_t length;
};

/* Where the answer to a request is kept, if it is; looks at no file. Returns a path on the heap, NULL
 * when there is no place: no home. */
char *cmeta_cache_path(const struct cmeta_cache_request *request);

/* The name of this host and the matcher's whole command line: homes are shared, slurm.conf is not.
 * Returns false when memory is short. */
bool cmeta_cache_request_make(const char *const argv[], struct cmeta_cache_request *request);

/* Write the answer to a request from the entry at path to fd; false when there is none that holds. Before
 * that, wait a little while another process of this user looks for the same answer. *lock is then a
 * descriptor to be held while this one does, or -1. Makes system calls and nothing else: for use between
 * fork() and exec(), under the deadline of the matcher, since any of these files may lie on a file system
 * that does not answer. */
bool cmeta_cache_answer(const char *path, const struct cmeta_cache_request *request, int fd, int *lock);

#endif
