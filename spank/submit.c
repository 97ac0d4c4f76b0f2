#include "submit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "changes.h"
#include "clock.h"
#include "handing.h"
#include "handover.h"
#include "matcher.h"
#include "record.h"
#include "slurm_client.h"
#include "text.h"
#include "wishes.h"

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

static bool is_multi_prog(void)
{
	char *value = cmeta_client_get("multi-prog");
	bool set = value && !strcmp(value, "set");

	free(value);
	return set;
}

/* docker://..., oci://..., library://...: no file, and none of our business to rewrite. */
static bool is_no_path(const char *container)
{
	return strstr(container, "://") != NULL;
}

/* Slurm takes the path as it is and resolves it nowhere; what the user means is the file seen from
 * where the command is typed. Returns the absolute path on the heap, and makes it the job's. */
static char *make_absolute(const char *container)
{
	char *directory, *path;
	const char *exported;

	if (container[0] == '/' || is_no_path(container))
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

/* The nodes of the allocation that a step starts in, on the heap; NULL where they are not known: srun
 * may name another job than the one that it runs in. */
static char *allocation_nodes(void)
{
	const char *job = getenv("SLURM_JOB_ID");
	char *named = cmeta_client_get("jobid"), *group = cmeta_client_get("het-group");
	char *variable = group ? cmeta_format("SLURM_JOB_NODELIST_HET_GROUP_%s", group)
			       : strdup("SLURM_JOB_NODELIST");
	const char *nodes = variable ? getenv(variable) : NULL;
	char *found = nodes && job && named && !strcmp(job, named) ? strdup(nodes) : NULL;

	free(variable);
	free(group);
	free(named);
	return found;
}

/* True when a step of the job has nothing to add to what was found out when the job was submitted with
 * this image: it was matched, or it could not be, and the user was told. To be asked before
 * cmeta_hand_forget(). */
static bool is_settled(const char *image)
{
	const char *outer = getenv(CMETA_HANDOVER_ON_NODE CMETA_HANDOVER_IMAGE);
	const char *verdict = getenv(CMETA_HANDOVER_ON_NODE CMETA_HANDOVER_VERDICT);

	if (!image || !outer || !verdict || strcmp(outer, image))
		return false;
	if (!strcmp(verdict, CMETA_VERDICT_FAULT))
		return true;
	/* The components of a heterogeneous job share an environment, and have different nodes. */
	return !strcmp(verdict, "match") && !getenv("SLURM_HET_SIZE");
}

/* What a tag means may change while a job waits: its nodes take what was looked at when it was
 * submitted. The steps of a job take what the job did; on the heap, to be asked before
 * cmeta_hand_forget(). */
static char *pinned_already(bool settled)
{
	const char *pinned = getenv(CMETA_HANDOVER_ON_NODE CMETA_HANDOVER_PINNED);

	return settled && pinned && cmeta_is_reference(pinned) ? strdup(pinned) : NULL;
}

static void say_settings_error(const struct cmeta_settings *settings)
{
	char *place = cmeta_settings_locate(find_slurm_conf(settings), settings->wrong);

	cmeta_say("warning: %s: cmeta_spank: %s; the job is submitted as it is",
		  place ? place : "plugstack.conf", settings->error);
	free(place);
}

/* A number alone would do, but not where the option's own unit is another one some day. */
static void apply_memory(const char *mebibytes)
{
	char *value = cmeta_format("%sM", mebibytes);

	if (value)
		cmeta_change("mem", value);
	free(value);
}

/* Memory and GPUs are the user's own affair where they ask for any, whatever a matcher answers. */
static void apply(spank_t spank, const struct cmeta_answer *answer, const struct cmeta_wishes *wishes)
{
	const char *memory = wishes->memory ? NULL : answer->memory;
	const char *gres = wishes->gpus ? NULL : answer->gres;

	if (answer->constraint)
		cmeta_change("constraint", answer->constraint);
	if (answer->prefer)
		cmeta_change("prefer", answer->prefer);
	if (answer->exclude)
		cmeta_change_append("exclude", answer->exclude);
	if (memory)
		apply_memory(memory);
	if (gres)
		cmeta_change_append("gres", gres);
	cmeta_hand_answer(spank, answer, wishes);
}

/* The controller never hears of a submission that is refused here. */
static void log_refusal(const char *log, const struct cmeta_request *request,
			const struct cmeta_answer *answer, long ms)
{
	char *name = cmeta_client_get("job-name"), *line;

	line = cmeta_record_refusal(&(struct cmeta_refusal){
		.name = name,
		.partition = request->wishes->partition,
		.constraint = request->wishes->constraint,
		.image = request->image,
		.answer = answer,
		.ms = ms,
		.step = request->step,
	});
	if (line)
		cmeta_record_send(log, line);
	free(line);
	free(name);
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

/* What the matcher has to know of a step: the nodes that it may get. */
static void read_step(struct cmeta_wishes *wishes)
{
	const char *partition = getenv("SLURM_JOB_PARTITION"); /* whose policy it is */
	char *own = cmeta_client_get("nodelist");

	*wishes = (struct cmeta_wishes){
		.partition = partition ? strdup(partition) : NULL,
		.nodelist = own ? own : allocation_nodes(),
		.exclude = cmeta_client_get("exclude"),
	};
}

/* A fault of ours: the job goes on. No sentence means that there was no memory for one. */
static void say_fault(spank_t spank, const char *fault, bool step)
{
	cmeta_say("warning: %s; the %s", fault ? fault : "out of memory",
		  step ? "step is started all the same" : "job is submitted as it is");
	if (!step)
		cmeta_hand_fault(spank, fault);
}

static void decide(spank_t spank, const struct cmeta_settings *settings, enum cmeta_mode mode,
		   const char *image, const struct cmeta_wishes *wishes, bool step)
{
	struct cmeta_request request = {
		.matcher = settings->matcher,
		.image = image,
		.wishes = wishes,
		.step = step,
		.slurm_conf = find_slurm_conf(settings),
		.config = settings->config,
		.explain = mode == CMETA_EXPLAIN,
		.deadline_ms = settings->deadline_ms,
	};
	struct cmeta_answer answer;
	char *fault = NULL;
	long started = cmeta_now_ms(), took;
	bool refused = false, answered;

	if (!cmeta_client_is_complete()) {
		say_fault(spank, NULL, step);
		return;
	}
	answered = cmeta_matcher_run(&request, &answer, &fault);
	took = cmeta_now_ms() - started;
	if (!step)
		cmeta_hand_took(spank, took, answer.cached);
	if (answered) {
		say_messages(&answer, request.explain);
		refused = answer.reject;
		if (refused && settings->log)
			log_refusal(settings->log, &request, &answer, took);
		if (!refused && !step)
			apply(spank, &answer, wishes);
		if (!refused && answer.pinned && cmeta_is_reference(image))
			cmeta_hand_to_node(spank, CMETA_HANDOVER_PINNED, answer.pinned);
		cmeta_answer_free(&answer);
	} else {
		say_fault(spank, fault, step);
	}
	free(fault);
	if (refused) {
		cmeta_say("error: not %s; with --cmeta=off the image is not looked at",
			  step ? "started" : "submitted");
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
	const char *told = image_for_nodes(
		image && (!is_no_path(image) || cmeta_is_reference(image)) ? image : NULL);

	if (!told)
		return;
	cmeta_hand_to_node(spank, CMETA_HANDOVER_IMAGE, told);
	if (is_multi_prog())
		cmeta_hand_to_node(spank, CMETA_HANDOVER_MULTI_PROG, "1");
}

void cmeta_submit(spank_t spank, const struct cmeta_settings *settings, enum cmeta_mode mode)
{
	bool usable = cmeta_client_usable(), step = is_step(), settled;
	char *container = usable ? cmeta_client_get("container") : NULL, *image = NULL, *pinned;
	struct cmeta_wishes wishes;

	if (usable)
		cmeta_changes_forget();
	if (container && mode != CMETA_OFF)
		image = make_absolute(container);
	settled = step && mode != CMETA_EXPLAIN && is_settled(image);
	pinned = pinned_already(settled);
	cmeta_hand_forget(spank);
	if (!usable)
		return;
	tell_nodes(spank, image);
	if (pinned)
		cmeta_hand_to_node(spank, CMETA_HANDOVER_PINNED, pinned);
	if (settled)
		goto done;
	if (mode != CMETA_OFF && !image && (container || !cmeta_client_is_complete())) {
		say_fault(spank, "the path of the image cannot be told", step);
	} else if (container && mode == CMETA_OFF) {
		cmeta_hand_over(spank, CMETA_HANDOVER_VERDICT, "off");
	} else if (image && settings->error) {
		say_settings_error(settings);
		cmeta_hand_fault(spank, settings->error);
	} else if (image && !step) {
		cmeta_wishes_read(&wishes, cmeta_client_get);
		decide(spank, settings, mode, image, &wishes, false);
		cmeta_wishes_free(&wishes);
	} else if (image && (!is_no_path(image) || cmeta_is_reference(image))) {
		read_step(&wishes);
		if (wishes.nodelist)
			decide(spank, settings, mode, image, &wishes, true);
		cmeta_wishes_free(&wishes);
	}
done:
	free(pinned);
	free(image);
	free(container);
}
