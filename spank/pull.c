#include "pull.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "run.h"
#include "text.h"

#ifndef CMETA_BINDIR
#define CMETA_BINDIR "/usr/local/bin"
#endif

enum {
	NO_NODE = 1,  /* of `cmeta pull`: no variant runs here */
	CANNOT_RUN = 126,
	NOT_FOUND = 127,
	LATE = -1000, /* below all signals, which are negative numbers, too */
	MAX_TRIES = 3,
	MAX_WORDS = 12,
	DEFAULT_TIMEOUT_S = 600,
	PATIENCE_S = 15, /* more than it takes to end by itself (PATIENCE in slurm_cmeta/pull/tool.py) */
};

static const char DEFAULT_STORE[] = "/var/tmp"; /* as in slurm_cmeta/pull/store.py */

static void add_option(const char *argv[MAX_WORDS], size_t *count, const char *option, const char *value)
{
	if (!value || !*value)
		return;
	argv[(*count)++] = option;
	argv[(*count)++] = value;
}

/* In the child; ends with cmeta-run. */
static void __attribute__((noreturn)) become_pull(const char *const *argv, int out, pid_t parent)
{
	if (!prctl(PR_SET_PDEATHSIG, SIGTERM) && getppid() == parent && dup2(out, STDOUT_FILENO) >= 0)
		execv(argv[0], (char *const *)argv);
	_exit(NOT_FOUND);
}

/* Read one line until the pipe is closed, or the time of cmeta_now_ms() is `until`; NULL for anything
 * but the absolute path of a file. */
static char *read_path(int fd, long until, bool *late)
{
	static char line[PATH_MAX + 1];
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	size_t length = 0;
	ssize_t count = 1;

	while (count > 0 && length < PATH_MAX) {
		long left = until - cmeta_now_ms();

		if ((*late = left <= 0))
			return NULL;
		if (poll(&wait, 1, left < INT_MAX ? (int)left : INT_MAX) <= 0)
			continue;
		count = read(fd, line + length, PATH_MAX - length);
		length += count > 0 ? (size_t)count : 0;
	}
	if (length < 2 || line[0] != '/' || line[length - 1] != '\n' || memchr(line, '\n', length - 1) ||
	    memchr(line, '\0', length))
		return NULL;
	line[length - 1] = '\0';
	return strdup(line);
}

static int timeout_s(void)
{
	const char *given = getenv(CMETA_RUN_PULL_TIMEOUT);

	return given && atoi(given) > 0 ? atoi(given) : DEFAULT_TIMEOUT_S;
}

/* One run of `cmeta pull`; *code is its exit status, NOT_FOUND where it could not be started, LATE
 * where it did not end in time, -N where signal N ended it. */
static char *run_pull(const char *program, const char *reference, int *code)
{
	const char *store = getenv(CMETA_RUN_STORE);
	const char *argv[MAX_WORDS] = {program, "pull", "--store",
				       store && *store ? store : DEFAULT_STORE};
	char seconds[16];
	size_t count = 4;
	int pipe_fd[2], status = 0;
	bool late = false;
	char *path;
	pid_t pid, self = getpid();

	snprintf(seconds, sizeof(seconds), "%d", timeout_s());
	add_option(argv, &count, "--store-size", getenv(CMETA_RUN_STORE_SIZE));
	add_option(argv, &count, "--timeout", seconds);
	argv[count++] = reference;
	argv[count] = NULL;
	*code = NOT_FOUND;
	if (pipe2(pipe_fd, O_CLOEXEC))
		return NULL;
	pid = fork();
	if (pid == 0)
		become_pull(argv, pipe_fd[1], self);
	close(pipe_fd[1]);
	if (pid < 0) {
		close(pipe_fd[0]);
		return NULL;
	}
	path = read_path(pipe_fd[0], cmeta_now_ms() + (timeout_s() + PATIENCE_S) * 1000L, &late);
	close(pipe_fd[0]);
	if (late) {
		/* What waits for a dead file system cannot even be killed: it is left behind. */
		kill(pid, SIGKILL);
		*code = LATE;
		return NULL;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	*code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
	if (path && !*code)
		return path;
	free(path);
	return NULL;
}

/* Hold the image as long as the runtime runs; false where it was removed meanwhile. */
static bool hold(const char *path)
{
	int fd = open(path, O_RDONLY); /* it stays open across exec() */
	struct stat status;

	if (fd < 0)
		return false;
	if (!flock(fd, LOCK_SH) && !fstat(fd, &status) && status.st_nlink > 0)
		return true;
	close(fd);
	return false;
}

char *cmeta_pull(const char *reference, const char *node, int *status)
{
	const char *chosen = getenv(CMETA_RUN_PULL), *program = chosen ? chosen : CMETA_BINDIR "/cmeta";
	int code = NOT_FOUND;

	for (int i = 0; i < MAX_TRIES; i++) {
		char *path = run_pull(program, reference, &code);

		if (path && hold(path))
			return path;
		free(path);
		if (code)
			break;
	}
	if (code == LATE)
		cmeta_say("error: node %s cannot pull %s: %s did not end in time; submit it again with "
			  "--exclude=%s, and tell the administrator", node, reference, program, node);
	else if (code < 0)
		cmeta_say("error: node %s cannot pull %s: %s was ended by signal %d%s", node, reference,
			  program, -code, code == -SIGKILL ? ": had the job enough memory?" : "");
	else if (code == NOT_FOUND)
		cmeta_say("error: node %s cannot pull %s: %s cannot be run; ask the administrator", node,
			  reference, program);
	else if (code == 0)
		cmeta_say("error: node %s cannot pull %s: what %s names as the image is not there, or is "
			  "removed at once; ask the administrator", node, reference, program);
	*status = code == NO_NODE ? CANNOT_RUN : NOT_FOUND;
	return NULL;
}
