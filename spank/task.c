#include "task.h"

#include <dlfcn.h>
#include <errno.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "answer.h"
#include "guard.h"
#include "handover.h"
#include "run.h"
#include "text.h"

#ifndef CMETA_DEFAULT_SLURM_CONF
#define CMETA_DEFAULT_SLURM_CONF "/etc/slurm/slurm.conf"
#endif

static const uint32_t BATCH_STEP = 0xfffffffb; /* SLURM_BATCH_SCRIPT in slurm.h */

/* The value in the task's environment; it stays Slurm's. Read from the whole environment, because
 * spank_getenv() wants a buffer whose size nobody knows beforehand. */
static const char *task_variable(spank_t spank, const char *name)
{
	char **environment = NULL;
	size_t length = strlen(name);

	if (spank_get_item(spank, S_JOB_ENV, &environment) != ESPANK_SUCCESS || !environment)
		return NULL;
	for (; *environment; environment++)
		if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

static const char *node_name(spank_t spank, char *buffer, size_t size)
{
	const char *name = task_variable(spank, "SLURMD_NODENAME");

	if (name)
		return name;
	if (gethostname(buffer, size))
		return "this node";
	buffer[size - 1] = '\0';
	return buffer;
}

static void __attribute__((noreturn)) end_task(int status)
{
	fflush(NULL);
	_exit(status);
}

/* Slurm starts the container itself when there is an oci.conf beside slurm.conf. slurmd exports the
 * path of its slurm.conf to slurmstepd, whatever way it found it (slurmd.c, _read_config). */
static bool slurm_runs_containers(void)
{
	const char *slurm_conf = getenv("SLURM_CONF");
	char *copy = strdup(slurm_conf ? slurm_conf : CMETA_DEFAULT_SLURM_CONF);
	char *path = copy ? cmeta_format("%s/oci.conf", dirname(copy)) : NULL;
	bool found = path && !access(path, F_OK);

	free(path);
	free(copy);
	return found;
}

/* Put program before the task's arguments. Since 23.11 Slurm has a function for it; before, the
 * arguments' array is Slurm's and cannot grow, so the program takes the first one's place and finds
 * the original in its environment. The tasks of --multi-prog have arrays of their own, which only
 * the function reaches. */
static bool start_with(spank_t spank, char *program)
{
	spank_err_t (*prepend)(spank_t, int, const char **) = NULL;
	void *symbol = dlsym(RTLD_DEFAULT, "spank_prepend_task_argv");
	const char *arguments[] = {program, NULL};
	char **argv = NULL;
	int argc = 0;

	if (symbol) {
		memcpy(&prepend, &symbol, sizeof(symbol));
		return prepend(spank, 1, arguments) == ESPANK_SUCCESS;
	}
	if (task_variable(spank, CMETA_HANDOVER_ON_NODE CMETA_HANDOVER_MULTI_PROG)) {
		cmeta_say("error: Slurm before 23.11 cannot run --multi-prog inside an image; "
			  "use several steps, or --cmeta=off");
		end_task(127);
	}
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 || !argv)
		return false;
	if (spank_setenv(spank, CMETA_RUN_PROGRAM, argv[0], 1) != ESPANK_SUCCESS)
		return false;
	argv[0] = program;
	return true;
}

static bool set_options(spank_t spank, const char *const *options)
{
	for (int i = 0; options && options[i]; i++) {
		char *name = cmeta_format(CMETA_RUN_OPTION "%d", i);
		bool good = name && spank_setenv(spank, name, options[i], 1) == ESPANK_SUCCESS;

		free(name);
		if (!good)
			return false;
	}
	return true;
}

/* slurmd keeps the batch script in its spool directory, which the image does not have. */
static bool bind_script(spank_t spank)
{
	uint32_t step = 0;
	char **argv = NULL, *copy;
	int argc = 0;
	bool good;

	if (spank_get_item(spank, S_JOB_STEPID, &step) != ESPANK_SUCCESS || step != BATCH_STEP)
		return true;
	if (spank_get_item(spank, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS || argc < 1 || !argv)
		return false;
	if (!(copy = strdup(argv[0])))
		return false;
	good = spank_setenv(spank, CMETA_RUN_BIND, dirname(copy), 1) == ESPANK_SUCCESS;
	free(copy);
	return good;
}

static bool set_unless_null(spank_t spank, const char *name, const char *value)
{
	return !value || spank_setenv(spank, name, value, 1) == ESPANK_SUCCESS;
}

/* What cmeta-run needs to pull an image. */
static bool set_pull(spank_t spank, const struct cmeta_settings *settings)
{
	return set_unless_null(spank, CMETA_RUN_PULL, settings->pull) &&
	       set_unless_null(spank, CMETA_RUN_STORE, settings->store) &&
	       set_unless_null(spank, CMETA_RUN_STORE_SIZE, settings->store_size) &&
	       set_unless_null(spank, CMETA_RUN_PULL_TIMEOUT, settings->pull_timeout);
}

static void start_in_image(spank_t spank, const struct cmeta_settings *settings, const char *image,
			   const char *node)
{
	char *program = strdup(settings->run); /* not freed: it becomes the task's */

	if (access(settings->run, X_OK)) {
		cmeta_say("error: node %s cannot start %s: %s: %s; ask the administrator", node, image,
			  settings->run, strerror(errno));
		end_task(127);
	}
	if (program && set_unless_null(spank, CMETA_RUN_IMAGE, image) &&
	    set_unless_null(spank, CMETA_RUN_RUNTIME, settings->runtime) &&
	    (!cmeta_is_reference(image) || set_pull(spank, settings)) &&
	    set_options(spank, settings->runtime_options) && bind_script(spank) &&
	    start_with(spank, program))
		return;
	cmeta_say("error: node %s cannot start %s: Slurm refused to change the task", node, image);
	end_task(127);
}

void cmeta_task_init(spank_t spank, const struct cmeta_settings *settings)
{
	const char *image = task_variable(spank, CMETA_HANDOVER_ON_NODE CMETA_HANDOVER_IMAGE);
	char host[256], code[3];
	struct utsname machine;
	const char *node;

	if (!image || !*image)
		return;
	/* proctrack/linuxproc sends no signal to what is named slurmstepd (kill_tree.c), and from here on
	 * this process touches what may lie on a file system that does not answer. */
	prctl(PR_SET_NAME, "cmeta-task");
	node = node_name(spank, host, sizeof(host));
	if (!strcmp(image, CMETA_SEVERAL_IMAGES)) {
		if (slurm_runs_containers())
			return;
		cmeta_say("error: node %s: the components of one srun cannot run in different images; "
			  "start one srun for each", node);
		end_task(127);
	}
	if (cmeta_is_reference(image)) {
		const char *pinned = task_variable(spank, CMETA_HANDOVER_ON_NODE CMETA_HANDOVER_PINNED);

		/* cmeta-run pulls it, after exec: here nothing is to be waited for. */
		if (!slurm_runs_containers())
			start_in_image(spank, settings,
				       pinned && cmeta_is_reference(pinned) ? pinned : image, node);
		return;
	}
	switch (cmeta_image_look_within(image, code, settings->deadline_ms)) {
	case CMETA_IMAGE_LATE:
		cmeta_say("error: node %s could not read the image %s within %g s; submit it again with "
			  "--exclude=%s, and tell the administrator", node, image,
			  settings->deadline_ms / 1000.0, node);
		end_task(127);
	case CMETA_IMAGE_UNREADABLE:
		cmeta_say("error: node %s cannot read the image %s: %s", node, image, strerror(errno));
		end_task(127);
	case CMETA_IMAGE_OTHER:
		return; /* left to Slurm, as without this plugin */
	case CMETA_IMAGE_SIF:
		break;
	}
	if (!uname(&machine) && !cmeta_machine_runs(machine.machine, code)) {
		cmeta_say("error: node %s is %s and cannot run %s, which is built for %s; "
			  "submit it again with --exclude=%s, and tell the administrator",
			  node, machine.machine, image, cmeta_architecture_of(code), node);
		end_task(126);
	}
	if (!slurm_runs_containers())
		start_in_image(spank, settings, image, node);
}
