#include "matcher.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache.h"
#include "child.h"
#include "clock.h"
#include "text.h"

enum {
	MAX_ANSWER = 1 << 18,          /* 200 node classes explained take some 40 kB */
	MAX_ARGUMENTS = 48,
	MAX_NODE_LIST = 100000,
	MAX_MEMORY_MB = 1024,          /* address space; the matcher needs some 30 MB of memory */
	MAX_OPEN_FILES = 64,
	LOCK_FD = 3,                   /* in the matcher: held while the answer is looked for */
	FROM_CACHE = 64, /* exit status of a child that had the answer, and ran no matcher */
	EXEC_FAILED = 127,
};

/* The child's whole environment, besides these of the user's. LD_PRELOAD, PYTHONPATH and the like
 * must not decide what the matcher runs. */
static const char *const KEPT[] = {"HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "SLURM_CONF", NULL};
/* And these where a registry is to be asked: how it is reached, and where the user's credentials are. */
static const char *const KEPT_FOR_REGISTRIES[] = {
	"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG",
	"APPTAINER_DOCKER_USERNAME", "APPTAINER_DOCKER_PASSWORD", "APPTAINER_CONFIGDIR",
	"SINGULARITY_DOCKER_USERNAME", "SINGULARITY_DOCKER_PASSWORD",
	"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy",
	"ALL_PROXY", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", NULL,
};
static const char *const SET[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
	"LC_ALL=C.UTF-8", "PYTHONSAFEPATH=1", "PYTHONNOUSERSITE=1", NULL,
};

static void free_strings(char **strings)
{
	for (size_t i = 0; strings && strings[i]; i++)
		free(strings[i]);
	free(strings);
}

/* Add those of the named variables that are set; false without memory. */
static bool keep_variables(char **environment, size_t *count, const char *const *names)
{
	for (size_t i = 0; names[i]; i++) {
		const char *value = getenv(names[i]);

		if (value && !(environment[(*count)++] = cmeta_format("%s=%s", names[i], value)))
			return false;
	}
	return true;
}

static char **make_environment(bool for_registry)
{
	size_t count = 0, most = sizeof(KEPT) / sizeof(*KEPT) + sizeof(SET) / sizeof(*SET) +
				 sizeof(KEPT_FOR_REGISTRIES) / sizeof(*KEPT_FOR_REGISTRIES);
	char **environment = calloc(most, sizeof(*environment));

	if (!environment)
		return NULL;
	for (size_t i = 0; SET[i]; i++)
		if (!(environment[count++] = strdup(SET[i])))
			goto fail;
	if (!keep_variables(environment, &count, KEPT) ||
	    (for_registry && !keep_variables(environment, &count, KEPT_FOR_REGISTRIES)))
		goto fail;
	return environment;
fail:
	free_strings(environment);
	return NULL;
}

/* Returns the number of arguments; there is room for one more option. */
static size_t make_arguments(const struct cmeta_request *request, const char *argv[MAX_ARGUMENTS])
{
	const struct { const char *option, *value; } options[] = {
		{"--image", request->image},
		{"--constraint", request->wishes->constraint},
		{"--prefer", request->wishes->prefer},
		{"--partition", request->wishes->partition},
		{"--nodelist", request->wishes->nodelist},
		{"--exclude", request->wishes->exclude},
		{"--clusters", request->wishes->clusters},
		{"--memory", request->wishes->memory ? "yes" : NULL},
		{"--gpus", request->wishes->gpus ? "yes" : NULL},
		{"--nodes", request->wishes->nodes},
		{"--ntasks", request->wishes->ntasks},
		{"--cpus", request->wishes->cpus},
		{"--mem", request->wishes->mem},
		{"--odd", request->wishes->odd ? "yes" : NULL},
		{"--step", request->step ? "yes" : NULL},
		{"--slurm-conf", request->slurm_conf},
		{"--config", request->config},
		{"--explain", request->explain ? "yes" : NULL},
	};
	size_t count = 0;

	argv[count++] = request->matcher;
	for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++) {
		if (!options[i].value || !*options[i].value)
			continue;
		/* The kernel takes no longer argument. A list of nodes may well be missing; without
		 * one of the others there is no answer, and the job is submitted as it is. */
		if (strlen(options[i].value) > MAX_NODE_LIST &&
		    (options[i].value == request->wishes->nodelist ||
		     options[i].value == request->wishes->exclude))
			continue;
		argv[count++] = options[i].option;
		argv[count++] = options[i].value;
	}
	argv[count] = NULL;
	return count;
}

static void limit(int resource, rlim_t most)
{
	struct rlimit now;

	if (getrlimit(resource, &now))
		return;
	if (now.rlim_max == RLIM_INFINITY || now.rlim_max > most)
		now.rlim_max = most;
	if (now.rlim_cur == RLIM_INFINITY || now.rlim_cur > now.rlim_max)
		now.rlim_cur = now.rlim_max;
	setrlimit(resource, &now);
}

/* All that the child needs, made before it is. */
struct matcher {
	int deadline_ms;
	const char *const *argv;
	char *const *environment;
	const char *cache; /* NULL: nothing is kept for this request */
	const struct cmeta_cache_request *request;
};

/* In the child, between fork and exec: only functions that are safe there. Every file that a user
 * named, the cache's own among them, is looked at here, under the deadline, and never in sbatch. */
static void become_matcher(const void *context)
{
	const struct matcher *matcher = context;
	int lock = -1;

	if (matcher->cache && cmeta_cache_answer(matcher->cache, matcher->request, STDOUT_FILENO, &lock))
		_exit(FROM_CACHE);
	if (lock == LOCK_FD) {
		fcntl(LOCK_FD, F_SETFD, 0);
	} else if (lock >= 0) {
		dup2(lock, LOCK_FD);
		close(lock);
	}
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_CPU, (rlim_t)matcher->deadline_ms / 1000 + 1);
	limit(RLIMIT_AS, (rlim_t)MAX_MEMORY_MB << 20);
	limit(RLIMIT_NOFILE, MAX_OPEN_FILES);
	execve(matcher->argv[0], (char *const *)matcher->argv, matcher->environment);
	_exit(EXEC_FAILED);
}

bool cmeta_matcher_run(const struct cmeta_request *request, struct cmeta_answer *answer,
		       char **fault)
{
	const char *argv[MAX_ARGUMENTS];
	long until = cmeta_now_ms() + request->deadline_ms;
	enum cmeta_child_end end;
	struct cmeta_child child;
	int status;
	char **environment = NULL, *buffer = NULL, *cache = NULL;
	struct cmeta_cache_request kept = {0};
	size_t length = 0, count;
	bool good = false;

	*answer = (struct cmeta_answer){0};
	*fault = NULL;
	count = make_arguments(request, argv);
	/* What is explained is long and rare; a step's nodes are other ones each time. */
	if (!request->explain && !request->step && cmeta_cache_request_make(argv, &kept) &&
	    (cache = cmeta_cache_path(&kept))) {
		argv[count++] = "--cache";
		argv[count++] = cache;
		argv[count] = NULL;
	}
	environment = make_environment(cmeta_is_reference(request->image));
	buffer = malloc(MAX_ANSWER);
	if (!environment || !buffer) {
		*fault = cmeta_format("cannot prepare %s: %s", request->matcher, strerror(errno));
		goto done;
	}
	if (!cmeta_child_start(&child, become_matcher,
			       &(struct matcher){request->deadline_ms, argv, environment, cache,
						 &kept})) {
		*fault = cmeta_format("cannot start %s: %s", request->matcher, strerror(errno));
		goto done;
	}
	end = cmeta_child_read(&child, until, buffer, MAX_ANSWER, &length,
			       cmeta_answer_is_complete);
	status = cmeta_child_end(&child, end == CMETA_CHILD_ANSWERED);
	good = end == CMETA_CHILD_ANSWERED && cmeta_answer_parse(buffer, length, answer);
	answer->cached = status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == FROM_CACHE;
	if (good)
		goto done;
	if (end == CMETA_CHILD_LATE)
		*fault = cmeta_format("%s did not answer in time", request->matcher);
	else if (end == CMETA_CHILD_TALKATIVE)
		*fault = cmeta_format("%s answered too much", request->matcher);
	else if (status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXEC_FAILED)
		*fault = cmeta_format("cannot run %s", request->matcher);
	else if (status >= 0 && WIFSIGNALED(status))
		*fault = cmeta_format("%s was ended by signal %d", request->matcher,
				      WTERMSIG(status));
	else if (status >= 0)
		*fault = cmeta_format("%s gave no valid answer (exit status %d)", request->matcher,
				      WEXITSTATUS(status));
	else
		*fault = cmeta_format("%s gave no valid answer", request->matcher);
done:
	free_strings(environment);
	free(kept.text);
	free(cache);
	free(buffer);
	return good;
}
