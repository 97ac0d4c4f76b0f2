/* Gets an image of a registry onto this node, for cmeta-run. */
#ifndef CMETA_PULL_H
#define CMETA_PULL_H

/* Let `cmeta pull --store` put the variant that suits this node best into the user's store, unless it
 * is there. Returns the path of the SIF on the heap; a descriptor of it stays open, with a shared lock
 * that tells who makes room in the store that it is in use. On failure returns NULL and puts the exit
 * status for the task into *status; what went wrong was said on stderr. */
char *cmeta_pull(const char *reference, const char *node, int *status);

#endif
