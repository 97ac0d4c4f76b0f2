/* The last guard: can this machine run programs of the image's architecture? */
#ifndef CMETA_GUARD_H
#define CMETA_GUARD_H

#include <stdbool.h>

enum cmeta_image_kind {
	CMETA_IMAGE_UNREADABLE, /* errno tells why */
	CMETA_IMAGE_LATE,       /* its file system did not answer in time */
	CMETA_IMAGE_OTHER,      /* not a SIF: none of our business */
	CMETA_IMAGE_SIF,
};

/* Look what the file is; when it is a SIF, put the architecture code of its primary system partition
 * ("02" for amd64, see facts of pkg/sif/arch.go) into code, or "" when it has none. */
enum cmeta_image_kind cmeta_image_look(const char *path, char code[3]);

/* The same in a child, for no longer than deadline_ms and the 0.2 s that ending the child may take. */
enum cmeta_image_kind cmeta_image_look_within(const char *path, char code[3], int deadline_ms);

/* What `uname -m` says where images of this SIF architecture code run; NULL for an unknown code. */
const char *cmeta_architecture_of(const char *code);

/* True when a machine (as uname -m names it) runs images with this code, or when nobody can tell. */
bool cmeta_machine_runs(const char *machine, const char *code);

#endif
