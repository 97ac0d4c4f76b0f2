/* The last guard: can this machine run programs of the image's architecture? */
#ifndef CMETA_GUARD_H
#define CMETA_GUARD_H

#include <stdbool.h>

enum cmeta_image_kind {
	CMETA_IMAGE_UNREADABLE, /* errno tells why */
	CMETA_IMAGE_OTHER,      /* not a SIF: none of our business */
	CMETA_IMAGE_SIF,
	CMETA_IMAGE_SILENT,     /* nobody answered in time */
};

/* Look what the file is; when it is a SIF, put the architecture code of its primary system partition
 * ("02" for amd64, see facts of pkg/sif/arch.go) into code, or "" when it has none. */
enum cmeta_image_kind cmeta_image_look(const char *path, char code[3]);

/* The same in a child, for at most deadline_ms: the caller never waits for the image's file system. */
enum cmeta_image_kind cmeta_image_look_within(const char *path, char code[3], int deadline_ms);

/* What `uname -m` says where images of this SIF architecture code run; NULL for an unknown code. */
const char *cmeta_architecture_of(const char *code);

/* True when a machine (as uname -m names it) runs images with this code, or when nobody can tell. */
bool cmeta_machine_runs(const char *machine, const char *code);

#endif
