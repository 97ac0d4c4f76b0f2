/* cmeta-run: starts a task inside its image with Apptainer or Singularity.
 *
 * slurmstepd runs it in the task's place (see task.c), after everything that Slurm does for a task:
 * limits, TaskProlog, environment. So nothing of that is lost, and the runtime is an ordinary child
 * of the step, by exec: exit status and signals are the task's own. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "pull.h"
#include "run.h"
#include "text.h"

#ifndef CMETA_VERSION
#define CMETA_VERSION "unknown"
#endif

enum { EXIT_USAGE_ERROR = 2, EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127 };

static const char *const RUNTIMES[] = {"apptainer", "singularity", NULL};
static const char SYSTEM_PATH[] = "/usr/local/bin:/usr/bin:/bin:/opt/apptainer/bin";

/* The first executable file of that name in a search path, on the heap, or NULL. */
static char *find_in_path(const char *path, const char *name)
{
	while (path && *path) {
		size_t length = strcspn(path, ":");
		char *candidate = NULL;

		if (length && path[0] == '/')
			candidate = cmeta_format("%.*s/%s", (int)length, path, name);
		if (candidate && !access(candidate, X_OK))
			return candidate;
		free(candidate);
		path += length + (path[length] == ':');
	}
	return NULL;
}

static char *find_runtime(void)
{
	const char *given = getenv(CMETA_RUN_RUNTIME);
	char *found;

	if (given)
		return strdup(given);
	for (int i = 0; RUNTIMES[i]; i++)
		if ((found = find_in_path(getenv("PATH"), RUNTIMES[i])))
			return found;
	for (int i = 0; RUNTIMES[i]; i++)
		if ((found = find_in_path(SYSTEM_PATH, RUNTIMES[i])))
			return found;
	return NULL;
}

static char *runtime_option(size_t number)
{
	char *name = cmeta_format(CMETA_RUN_OPTION "%zu", number);
	char *value = name ? getenv(name) : NULL;

	free(name);
	return value;
}

/* runtime --quiet exec [options] [--bind directory] image program [arguments], or NULL without memory. The
 * strings are taken from the environment as they are; nothing is parsed or quoted. */
static char **make_command(char *runtime, char *image, int argc, char *argv[])
{
	char *program = getenv(CMETA_RUN_PROGRAM), *bind = getenv(CMETA_RUN_BIND);
	/* Quiet, or "INFO: Converting SIF file" and the like would stand in the job's output. */
	static char quiet_word[] = "--quiet", exec_word[] = "exec", bind_word[] = "--bind";
	size_t count = 0, options = 0;
	char **command;

	while (runtime_option(options))
		options++;
	command = calloc(options + (size_t)argc + 8, sizeof(*command));
	if (!command)
		return NULL;
	command[count++] = runtime;
	command[count++] = quiet_word;
	command[count++] = exec_word;
	for (size_t i = 0; i < options; i++)
		command[count++] = runtime_option(i);
	if (bind) {
		command[count++] = bind_word;
		command[count++] = bind;
	}
	command[count++] = image;
	if (program)
		command[count++] = program;
	for (int i = 1; i < argc; i++)
		command[count++] = argv[i];
	return command;
}

extern char **environ;

/* Take our own variables out of the environment. */
static void clean_environment(void)
{
	char **kept = environ;

	for (char **entry = environ; *entry; entry++)
		if (strncmp(*entry, CMETA_RUN_PREFIX, sizeof(CMETA_RUN_PREFIX) - 1))
			*kept++ = *entry;
	*kept = NULL;
}

int main(int argc, char *argv[])
{
	const char *node = getenv("SLURMD_NODENAME");
	char *image = getenv(CMETA_RUN_IMAGE), *runtime, **command;
	int status = EXIT_NOT_FOUND;

	if (!image || (argc < 2 && !getenv(CMETA_RUN_PROGRAM))) {
		printf("cmeta-run %s\nusage: started by the SPANK plugin of slurm-cmeta, "
		       "not by hand; see slurm-cmeta(8)\n", CMETA_VERSION);
		return EXIT_USAGE_ERROR;
	}
	node = node ? node : "this node";
	runtime = find_runtime();
	if (!runtime) {
		cmeta_say("error: node %s has neither apptainer nor singularity to run %s; ask the "
			  "administrator to install one or to set runtime= in plugstack.conf",
			  node, image);
		return EXIT_NOT_FOUND;
	}
	if (cmeta_is_reference(image) && !(image = cmeta_pull(image, node, &status)))
		return status;
	command = make_command(runtime, image, argc, argv);
	if (!command) {
		cmeta_say("error: node %s cannot run %s: out of memory", node, image);
		return EXIT_NOT_EXECUTABLE;
	}
	clean_environment(); /* the strings themselves stay where they are */
	execv(runtime, command);
	cmeta_say("error: node %s cannot start %s to run %s: %s", node, runtime, image,
		  strerror(errno));
	return errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
}
