#include "slurm_client.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef char *get_function(void *options, const char *name);
typedef int set_function(void *options, const char *name, const char *value, bool early);
typedef bool reset_function(void *options, const char *name);
typedef void free_function(void **memory);

static void *options;
static get_function *get_option;
static set_function *set_option;
static reset_function *reset_option;
static free_function *free_memory;
static bool incomplete;

/* dlsym() gives an object pointer; ISO C has no cast from that to a function pointer. */
static void find(const char *name, void *slot)
{
	void *symbol = dlsym(RTLD_DEFAULT, name);

	memcpy(slot, &symbol, sizeof(symbol));
}

bool cmeta_client_usable(void)
{
	find("opt", &options);
	find("slurm_option_get", &get_option);
	find("slurm_option_set", &set_option);
	find("slurm_option_reset", &reset_option);
	find("slurm_xfree", &free_memory);
	return options && get_option && free_memory;
}

char *cmeta_client_get(const char *name)
{
	char *value = get_option(options, name), *copy = NULL;

	if (value) {
		if (*value && !(copy = strdup(value)))
			incomplete = true;
		free_memory((void **)&value);
	}
	return copy;
}

bool cmeta_client_is_complete(void)
{
	return !incomplete;
}

bool cmeta_client_set(const char *name, const char *value)
{
	char *now;
	bool same;

	if (!set_option)
		return false; /* what is handed over is left to job_submit.lua */
	/* The meaning of the return value differs between options and releases; the value does not. */
	(void)set_option(options, name, value, false);
	now = cmeta_client_get(name);
	same = now && !strcmp(now, value);
	free(now);
	return same;
}

void cmeta_client_reset(const char *name)
{
	if (reset_option)
		(void)reset_option(options, name);
}
