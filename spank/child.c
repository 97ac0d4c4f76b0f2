#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

enum {
	REAP_MS = 200,         /* a killed child that is not gone by then hangs in the kernel; one that
	                          answered keeps its answer meanwhile */
	MAX_CLOSED = 1 << 20,  /* descriptors closed one by one where the kernel has no better way */
	LONGEST_PAUSE_NS = 640000,
	NOTHING_DONE = 127,
};

/* close_range() came with Linux 5.9 and glibc 2.34; RHEL 8 has neither, and a container may forbid it. */
static void close_above_stderr(void)
{
	struct rlimit most = {.rlim_cur = MAX_CLOSED};

#ifdef SYS_close_range
	if (!syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0))
		return;
#endif
	if (getrlimit(RLIMIT_NOFILE, &most) || most.rlim_cur > MAX_CLOSED)
		most.rlim_cur = MAX_CLOSED;
	for (int fd = STDERR_FILENO + 1; fd < (int)most.rlim_cur; fd++)
		close(fd);
}

/* In the child: only functions that are safe there. Both descriptors are above 2. */
static void prepare(pid_t parent, int answer_fd, int null_fd)
{
	sigset_t none;

	setpgid(0, 0);
	/* Out of the terminal's group, so ^C ends sbatch alone: nobody would be left to end us. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		_exit(NOTHING_DONE);
	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(null_fd, STDIN_FILENO) < 0 || dup2(answer_fd, STDOUT_FILENO) < 0 ||
	    dup2(null_fd, STDERR_FILENO) < 0)
		_exit(NOTHING_DONE);
	close_above_stderr();
}

static int open_above_stderr(int fd)
{
	int above;

	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close(fd);
	return above;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

bool cmeta_child_start(struct cmeta_child *child, void (*body)(const void *context),
		       const void *context)
{
	int pipe_fd[2], null_fd, saved;
	pid_t parent = getpid();

	*child = (struct cmeta_child){.pid = -1, .answer_fd = -1};
	if (pipe2(pipe_fd, O_CLOEXEC))
		return false;
	pipe_fd[0] = open_above_stderr(pipe_fd[0]);
	pipe_fd[1] = open_above_stderr(pipe_fd[1]);
	null_fd = open_above_stderr(open("/dev/null", O_RDWR | O_CLOEXEC));
	if (pipe_fd[0] >= 0 && pipe_fd[1] >= 0 && null_fd >= 0)
		child->pid = fork();
	if (child->pid == 0) {
		prepare(parent, pipe_fd[1], null_fd);
		body(context);
		_exit(NOTHING_DONE);
	}
	saved = errno;
	close_if_open(null_fd);
	close_if_open(pipe_fd[1]);
	if (child->pid > 0) {
		setpgid(child->pid, child->pid); /* also here: the group exists whoever comes first */
		child->answer_fd = pipe_fd[0];
	} else {
		close_if_open(pipe_fd[0]);
	}
	errno = saved;
	return child->pid > 0;
}

enum cmeta_child_end cmeta_child_read(const struct cmeta_child *child, long until, char *buffer,
				      size_t size, size_t *length,
				      bool (*is_complete)(const char *text, size_t length))
{
	for (;;) {
		struct pollfd ready = {.fd = child->answer_fd, .events = POLLIN};
		long left = until - cmeta_now_ms();
		ssize_t got;

		if (left <= 0)
			return CMETA_CHILD_LATE;
		if (*length == size)
			return CMETA_CHILD_TALKATIVE;
		if (poll(&ready, 1, (int)left) <= 0)
			continue; /* a signal, or the time is out: told above */
		got = read(child->answer_fd, buffer + *length, size - *length);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return CMETA_CHILD_ANSWERED;
		*length += (size_t)got;
		if (is_complete(buffer, *length))
			return CMETA_CHILD_ANSWERED;
	}
}

int cmeta_child_end(struct cmeta_child *child, bool leave)
{
	long until = cmeta_now_ms() + REAP_MS;
	/* What answered from the cache is gone at once, and sbatch itself takes some 3 ms. */
	struct timespec pause = {.tv_nsec = 10000};
	siginfo_t ended = {0};
	int status = -1;

	if (!leave)
		kill(-child->pid, SIGKILL);
	while (!waitid(P_PID, (id_t)child->pid, &ended, WEXITED | WNOHANG | WNOWAIT) &&
	       !ended.si_pid && cmeta_now_ms() < until) {
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < LONGEST_PAUSE_NS)
			pause.tv_nsec *= 2;
	}
	/* What the child may have left behind. As long as it is not collected, the number is its own. */
	kill(-child->pid, SIGKILL);
	if (waitpid(child->pid, &status, WNOHANG) != child->pid || !ended.si_pid)
		status = -1;
	close(child->answer_fd);
	*child = (struct cmeta_child){.pid = -1, .answer_fd = -1};
	return status;
}
