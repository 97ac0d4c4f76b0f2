#include "changes.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

enum { CHANGES = sizeof(changes) / sizeof(*changes) };

/* True when srun's command line has a ":" of its own, the mark between components. A program's
 * argument that looks like it does no harm; nor does taking a line that cannot be read for one. */
static bool has_components(void)
{
	FILE *file = fopen("/proc/self/cmdline", "re");
	char *word = NULL;
	size_t room = 0;
	bool found = !file;

	while (!found && getdelim(&word, &room, '\0', file) > 0)
		found = !strcmp(word, ":");
	if (file && !feof(file))
		found = true;
	free(word);
	if (file)
		fclose(file);
	return found;
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
	if (!cmeta_client_is_complete()) {
		free(own);
		return;
	}
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

	if (both && cmeta_client_is_complete())
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
