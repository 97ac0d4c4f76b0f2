#include "submit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "handover.h"
#include "matcher.h"
#include "slurm_client.h"
#include "text.h"

#ifndef CMETA_DEFAULT_SLURM_CONF
#define CMETA_DEFAULT_SLURM_CONF "/etc/slurm/slurm.conf"
#endif

/* Where slurmd and sackd keep the files that a configless controller sends. */
static const char CONFIGLESS_SLURM_CONF[] = "/run/slurm/conf/slurm.conf";

static const char *find_slurm_conf(const struct cmeta_settings *settings)
{
	const char *path = settings->slurm_conf ? settings->slurm_conf : getenv("SLURM_CONF");

	if (path && *path)
		return path;
	if (access(CMETA_DEFAULT_SLURM_CONF, F_OK) && !access(CONFIGLESS_SLURM_CONF, F_OK))
		return CONFIGLESS_SLURM_CONF;
	return CMETA_DEFAULT_SLURM_CONF;
}

/* A nested submission inherits what the outer one handed over; it must never act on it. */
static void forget_handover(spank_t spank)
{
	static const char *const names[] = {
		CMETA_HANDOVER_IMAGE, CMETA_HANDOVER_MULTI_PROG, CMETA_HANDOVER_VERDICT,
		CMETA_HANDOVER_CONSTRAINT, CMETA_HANDOVER_PREFER, CMETA_HANDOVER_EXCLUDE,
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char *on_node = cmeta_format(CMETA_HANDOVER_ON_NODE "%s", names[i]);

		spank_job_control_unsetenv(spank, names[i]);
		if (on_node)
			unsetenv(on_node);
		free(on_node);
	}
}

static void hand_over(spank_t spank, const char *name, const char *value)
{
	if (value)
		spank_job_control_setenv(spank, name, value, 1);
}

/* For the node: sbatch puts what is handed over into the job's environment, srun and salloc do not. */
static void hand_to_node(spank_t spank, const char *name, const char *value)
{
	char *on_node = cmeta_format(CMETA_HANDOVER_ON_NODE "%s", name);

	hand_over(spank, name, value);
	if (on_node)
		setenv(on_node, value, 1);
	free(on_node);
}

static bool is_multi_prog(void)
{
	char *value = cmeta_client_get("multi-prog");
	bool set = value && !strcmp(value, "set");

	free(value);
	return set;
}

/* docker://..., oci://...: no file, and none of our business to rewrite. */
static bool is_reference(const char *container)
{
	return strstr(container, "://") != NULL;
}

/* Slurm takes the path as it is and resolves it nowhere; what the user means is the file seen from
 * where the command is typed. Returns the absolute path on the heap, and makes it the job's. */
static char *make_absolute(const char *container)
{
	char *directory, *path;
	const char *exported;

	if (container[0] == '/' || is_reference(container))
		return strdup(container);
	if (!(directory = getcwd(NULL, 0)))
		return NULL;
	path = cmeta_format("%s/%s", directory, container);
	free(directory);
	if (!path)
		return NULL;
	exported = getenv("SLURM_CONTAINER");
	if (exported && !strcmp(exported, container))
		setenv("SLURM_CONTAINER", path, 1);
	cmeta_client_set("container", path);
	return path;
}

/* A step starts inside an allocation whose nodes are chosen already. */
static bool is_step(void)
{
	return spank_context() == S_CTX_LOCAL && getenv("SLURM_JOB_ID") != NULL;
}

static void say_settings_error(const struct cmeta_settings *settings)
{
	char *place = cmeta_settings_locate(find_slurm_conf(settings), settings->wrong);

	cmeta_say("warning: %s: cmeta_spank: %s; the job is submitted as it is",
		  place ? place : "plugstack.conf", settings->error);
	free(place);
}

static void apply_exclude(const char *exclude)
{
	char *own = cmeta_client_get("exclude");
	char *both = own ? cmeta_format("%s,%s", own, exclude) : strdup(exclude);

	if (both)
		cmeta_client_set("exclude", both);
	free(both);
	free(own);
}

static void apply(spank_t spank, const struct cmeta_answer *answer)
{
	if (answer->constraint)
		cmeta_client_set("constraint", answer->constraint);
	if (answer->prefer)
		cmeta_client_set("prefer", answer->prefer);
	if (answer->exclude)
		apply_exclude(answer->exclude);
	hand_over(spank, CMETA_HANDOVER_VERDICT, answer->verdict);
	hand_over(spank, CMETA_HANDOVER_CONSTRAINT, answer->constraint);
	hand_over(spank, CMETA_HANDOVER_PREFER, answer->prefer);
	hand_over(spank, CMETA_HANDOVER_EXCLUDE, answer->exclude);
}

/* -Q: Slurm's clients then say nothing but warnings and errors, and so do we. */
static bool is_quiet(void)
{
	char *value = cmeta_client_get("quiet");
	bool quiet = value && atoi(value) > 0;

	free(value);
	return quiet;
}

static bool is_trouble(const char *message)
{
	return !strncmp(message, "warning: ", 9) || !strncmp(message, "error: ", 7);
}

static void say_messages(const struct cmeta_answer *answer, bool explained)
{
	bool all = explained || !is_quiet();

	for (size_t i = 0; i < answer->message_count; i++)
		if (all || is_trouble(answer->messages[i]))
			cmeta_say("%s", answer->messages[i]);
}

static void decide(spank_t spank, const struct cmeta_settings *settings, enum cmeta_mode mode,
		   const char *image)
{
	char *constraint = cmeta_client_get("constraint"), *prefer = cmeta_client_get("prefer");
	struct cmeta_request request = {
		.matcher = settings->matcher,
		.image = image,
		.constraint = constraint,
		.prefer = prefer,
		.slurm_conf = find_slurm_conf(settings),
		.config = settings->config,
		.explain = mode == CMETA_EXPLAIN,
		.deadline_ms = settings->deadline_ms,
	};
	struct cmeta_answer answer;
	char *fault = NULL;
	bool refused = false;

	if (cmeta_matcher_run(&request, &answer, &fault)) {
		say_messages(&answer, request.explain);
		refused = answer.reject;
		if (!refused)
			apply(spank, &answer);
		cmeta_answer_free(&answer);
	} else {
		cmeta_say("warning: %s; the job is submitted as it is",
			  fault ? fault : "out of memory");
		hand_over(spank, CMETA_HANDOVER_VERDICT, "fault");
	}
	free(fault);
	free(prefer);
	free(constraint);
	if (refused) {
		cmeta_say("error: not submitted; with --cmeta=off the image is not looked at");
		exit(1);
	}
}

/* All components of one srun share srun's environment, and it takes one image to the nodes. Returns
 * what the nodes are told: the image, NULL for none, or that there are several. */
static const char *image_for_nodes(const char *image)
{
	static bool called;
	static char *first;

	if (spank_context() != S_CTX_LOCAL)
		return image;
	if (!called) {
		called = true;
		first = image ? strdup(image) : NULL;
		return image;
	}
	return strcmp(first ? first : "", image ? image : "") ? CMETA_SEVERAL_IMAGES : image;
}

/* The image that the nodes run the task in; NULL when that is none of our business. */
static void tell_nodes(spank_t spank, const char *image)
{
	const char *told = image_for_nodes(image && !is_reference(image) ? image : NULL);

	if (!told)
		return;
	hand_to_node(spank, CMETA_HANDOVER_IMAGE, told);
	if (is_multi_prog())
		hand_to_node(spank, CMETA_HANDOVER_MULTI_PROG, "1");
}

void cmeta_submit(spank_t spank, const struct cmeta_settings *settings, enum cmeta_mode mode)
{
	char *container = NULL, *image = NULL;
	forget_handover(spank);
	if (!cmeta_client_usable())
		return;
	container = cmeta_client_get("container");
	if (container && mode != CMETA_OFF)
		image = make_absolute(container);
	tell_nodes(spank, image);
	if (container && mode == CMETA_OFF) {
		hand_over(spank, CMETA_HANDOVER_VERDICT, "off");
	} else if (image && settings->error) {
		say_settings_error(settings);
		hand_over(spank, CMETA_HANDOVER_VERDICT, "fault");
	} else if (image && !is_step()) {
		decide(spank, settings, mode, image);
	}
	free(image);
	free(container);
}
