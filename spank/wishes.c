#include "wishes.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const MEMORY[] = {"mem", "mem-per-cpu", "mem-per-gpu", NULL};
static const char *const GPUS[] = {
	"gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", NULL,
};
static const char *const GRES[] = {"gres", "tres-per-task", NULL}; /* the latter since 23.11 */

/* What also says which nodes can hold a job, besides --nodes, --ntasks, --cpus-per-task and --mem.
 * Not set, they read as nothing, "unset", 0 or a negative number (seen in 22.05, 24.11 and 26.05). */
static const char *const ODD[] = {
	"mem-per-cpu", "mem-per-gpu", "gres", "tmp", "ntasks-per-node",
	"ntasks-per-socket", "ntasks-per-core", "ntasks-per-gpu", "cpus-per-gpu",
	"sockets-per-node", "cores-per-socket", "threads-per-core", "extra-node-info",
	"contiguous", "core-spec", "thread-spec", "reservation", "switches",
	NULL,
};

/* Generic resources of Slurm's own that are a GPU or a part of one; "none" is an answer, too. */
static const char *const GPU_NAMES[] = {"gpu", "mps", "shard", "none", NULL};

bool cmeta_gres_has_gpu(const char *list)
{
	while (*list) {
		size_t length;

		/* Slurm puts "gres:" before each item until 22.05, "gres/" since. */
		if (!strncmp(list, "gres:", 5) || !strncmp(list, "gres/", 5))
			list += 5;
		length = strcspn(list, ":=,");
		for (size_t i = 0; GPU_NAMES[i]; i++)
			if (strlen(GPU_NAMES[i]) == length && !strncasecmp(list, GPU_NAMES[i], length))
				return true;
		list += strcspn(list, ",");
		list += *list == ',';
	}
	return false;
}

static bool is_set(const char *value)
{
	return value != NULL;
}

static bool is_given(const char *value)
{
	return strcmp(value, "unset") && strcmp(value, "0") && *value != '-';
}

/* True when the value of any of these options, where it has one, says so. */
static bool any(cmeta_get_option *get, const char *const *names, bool (*says)(const char *value))
{
	bool found = false;

	for (size_t i = 0; names[i] && !found; i++) {
		char *value = get(names[i]);

		found = value && says(value);
		free(value);
	}
	return found;
}

/* CPUs for each task; --mincpus, which --cpus-per-task sets as well, where it is more. */
static char *read_cpus(cmeta_get_option *get)
{
	char *cpus = get("cpus-per-task"), *least = get("mincpus");

	if (least && atoi(least) > (cpus ? atoi(cpus) : 0)) {
		free(cpus);
		return least;
	}
	free(least);
	return cpus;
}

void cmeta_wishes_read(struct cmeta_wishes *wishes, cmeta_get_option *get)
{
	*wishes = (struct cmeta_wishes){
		.constraint = get("constraint"),
		.prefer = get("prefer"),
		.partition = get("partition"),
		.nodelist = get("nodelist"), /* a file of names is a list by now; so it is below */
		.exclude = get("exclude"),
		.clusters = get("clusters"),
		.nodes = get("nodes"),
		.ntasks = get("ntasks"),
		.cpus = read_cpus(get),
		.mem = get("mem"),
		.odd = any(get, ODD, is_given),
		.memory = any(get, MEMORY, is_set),
		.gpus = any(get, GPUS, is_set) || any(get, GRES, cmeta_gres_has_gpu),
	};
}

void cmeta_wishes_free(struct cmeta_wishes *wishes)
{
	free(wishes->constraint);
	free(wishes->prefer);
	free(wishes->partition);
	free(wishes->nodelist);
	free(wishes->exclude);
	free(wishes->clusters);
	free(wishes->nodes);
	free(wishes->ntasks);
	free(wishes->cpus);
	free(wishes->mem);
	*wishes = (struct cmeta_wishes){0};
}
