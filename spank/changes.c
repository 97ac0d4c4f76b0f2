#include "changes.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <slurm/spank.h>

#include "slurm_client.h"
#include "text.h"

/* Slurm forgets --constraint and --gres between the components of a heterogeneous job, and these not
 * (slurm_opt.c, reset_each_pass): what we set for one image would be the next component's own wish. */
static struct {
	const char *name;
	char *own;  /* before we changed it; NULL when not set */
	char *ours; /* as it reads back; NULL: not changed */
} changes[] = {{"exclude", NULL, NULL}, {"mem", NULL, NULL}, {"prefer", NULL, NULL}};

enum { CHANGES = sizeof(changes) / sizeof(*changes), MAX_COMMAND = 1 << 16 };

/* True when srun's command line has a ":" of its own, the mark between components. A program's
 * argument that looks like it does no harm. */
static bool has_components(void)
{
	static char line[MAX_COMMAND];
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t length = 0, got;

	if (fd < 0)
		return false;
	while (length < MAX_COMMAND && (got = read(fd, line + length, MAX_COMMAND - (size_t)length)) > 0)
		length += got;
	close(fd);
	return memmem(line, (size_t)length, "\0:\0", 3) != NULL;
}

/* srun keeps the options of all components until the last one is read, and they share the text of
 * --prefer (srun/opt.c, _opt_copy): whoever changes it for one breaks the others. It is handed over, and
 * left to job_submit.lua. */
static bool is_shared(const char *name)
{
	return !strcmp(name, "prefer") && spank_context() == S_CTX_LOCAL && has_components();
}

void cmeta_change(const char *name, const char *value)
{
	char *own;

	if (is_shared(name))
		return;
	own = cmeta_client_get(name);
	cmeta_client_set(name, value);
	for (size_t i = 0; i < CHANGES; i++) {
		if (strcmp(changes[i].name, name))
			continue;
		free(changes[i].own);
		free(changes[i].ours);
		changes[i].own = own;
		changes[i].ours = cmeta_client_get(name);
		return;
	}
	free(own);
}

void cmeta_change_append(const char *name, const char *more)
{
	char *own = cmeta_client_get(name);
	char *both = own ? cmeta_format("%s,%s", own, more) : strdup(more);

	if (both)
		cmeta_change(name, both);
	free(both);
	free(own);
}

void cmeta_changes_forget(void)
{
	for (size_t i = 0; i < CHANGES; i++) {
		char *now = changes[i].ours ? cmeta_client_get(changes[i].name) : NULL;

		/* Another value is what the user gave the next component. */
		if (now && !strcmp(now, changes[i].ours)) {
			if (changes[i].own)
				cmeta_client_set(changes[i].name, changes[i].own);
			else
				cmeta_client_reset(changes[i].name);
		}
		free(now);
		free(changes[i].own);
		free(changes[i].ours);
		changes[i].own = changes[i].ours = NULL;
	}
}
