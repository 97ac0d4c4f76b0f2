#include "pull.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

#include "run.h"
#include "text.h"

#ifndef CMETA_BINDIR
#define CMETA_BINDIR "/usr/local/bin"
#endif

enum {
	NO_NODE = 1,  /* of `cmeta pull`: no variant runs here */
	CANNOT_RUN = 126,
	NOT_FOUND = 127,
	MAX_TRIES = 3,
	MAX_WORDS = 12,
};

static const char DEFAULT_STORE[] = "/var/tmp"; /* as in slurm_cmeta/pull/store.py */

static void add_option(const char *argv[MAX_WORDS], size_t *count, const char *option, const char *variable)
{
	const char *value = getenv(variable);

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

/* Read one line until the pipe is closed; NULL for anything but the absolute path of a file. */
static char *read_path(int fd)
{
	char *line = NULL;
	size_t room = 0;
	FILE *pipe = fdopen(fd, "r");
	ssize_t length = pipe ? getline(&line, &room, pipe) : -1;

	if (pipe)
		fclose(pipe);
	else
		close(fd);
	if (length > 1 && length < PATH_MAX && line[0] == '/' && line[length - 1] == '\n') {
		line[length - 1] = '\0';
		return line;
	}
	free(line);
	return NULL;
}

/* One run of `cmeta pull`; *code is its exit status, NOT_FOUND where it could not be started. */
static char *run_pull(const char *reference, int *code)
{
	const char *program = getenv(CMETA_RUN_PULL), *store = getenv(CMETA_RUN_STORE);
	const char *argv[MAX_WORDS] = {program ? program : CMETA_BINDIR "/cmeta", "pull", "--store",
				       store && *store ? store : DEFAULT_STORE};
	size_t count = 4;
	int pipe_fd[2], status = 0;
	char *path;
	pid_t pid, self = getpid();

	add_option(argv, &count, "--store-size", CMETA_RUN_STORE_SIZE);
	add_option(argv, &count, "--timeout", CMETA_RUN_PULL_TIMEOUT);
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
	path = read_path(pipe_fd[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	*code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
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
	int code = NOT_FOUND;

	for (int i = 0; i < MAX_TRIES; i++) {
		char *path = run_pull(reference, &code);

		if (path && hold(path))
			return path;
		free(path);
		if (code)
			break;
	}
	if (code == NOT_FOUND || code == 0)
		cmeta_say("error: node %s cannot pull %s: %s cannot be run; ask the administrator", node,
			  reference, getenv(CMETA_RUN_PULL) ? getenv(CMETA_RUN_PULL) : "cmeta");
	*status = code == NO_NODE ? CANNOT_RUN : code > 128 ? code : NOT_FOUND;
	return NULL;
}
