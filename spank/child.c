#include "child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"

enum {
	REAP_MS = 200,         /* a killed child that is not gone by then hangs in the kernel */
	MAX_CLOSED = 1 << 20,  /* descriptors closed one by one where the kernel has no better way */
	LONGEST_PAUSE_NS = 640000,
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

bool cmeta_child_begin(pid_t parent, int null_fd, int answer_fd)
{
	sigset_t none;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		return false;
	for (int signal_number = 1; signal_number < NSIG; signal_number++)
		signal(signal_number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(null_fd, STDIN_FILENO) < 0 || dup2(answer_fd, STDOUT_FILENO) < 0 ||
	    dup2(null_fd, STDERR_FILENO) < 0)
		return false;
	close_above_stderr();
	return true;
}

int cmeta_child_fd(int fd)
{
	int above;

	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	above = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	close(fd);
	return above;
}

int cmeta_child_end(pid_t pid, bool leave, bool group)
{
	pid_t target = group ? -pid : pid;
	long until = cmeta_now_ms() + REAP_MS;
	/* What answered from the cache is gone at once, and sbatch itself takes some 3 ms. */
	struct timespec pause = {.tv_nsec = 10000};
	siginfo_t ended = {0};
	int status = -1;

	if (!leave)
		kill(target, SIGKILL);
	while (!waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) && !ended.si_pid &&
	       cmeta_now_ms() < until) {
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < LONGEST_PAUSE_NS)
			pause.tv_nsec *= 2;
	}
	/* Also what it may have left behind. As long as it is not collected, the number is its own. */
	kill(target, SIGKILL);
	return waitpid(pid, &status, WNOHANG) == pid && ended.si_pid ? status : -1;
}
