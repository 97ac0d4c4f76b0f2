/* Preloaded by tests: sees what our plugin asks of the C library, and lets its allocations fail.
 *
 *   CMETA_WATCH=FILE     append "EUID PROGRAM FUNCTION PATH" for each call that touches a file or starts a
 *                        program: those of our plugin, and all that name a .sif
 *   CMETA_FAIL_AT=N      our plugin's N-th allocation fails; so does the N-th after cmeta_fail_at(N)
 *   CMETA_FAILED=FILE    made when that has happened
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

#define CALLER __builtin_return_address(0)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static long fail_at, seen;

static bool is_ours(const void *caller)
{
	Dl_info found;
	const char *name;

	if (!dladdr(caller, &found) || !found.dli_fname)
		return false;
	name = strrchr(found.dli_fname, '/');
	name = name ? name + 1 : found.dli_fname;
	return !strcmp(name, "cmeta_spank.so") || !strcmp(name, "libcmeta_core.so");
}

static void append(const char *variable, const char *text)
{
	const char *path = getenv(variable);
	int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path,
				     O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		abort();
	close(fd);
}

/* slurmstepd changes its name as it goes. */
static const char *program(char *room, size_t size)
{
	ssize_t length = readlink("/proc/self/exe", room, size - 1);
	const char *name;

	room[length < 0 ? 0 : length] = '\0';
	name = strrchr(room, '/');
	return name ? name + 1 : "unknown";
}

static void watch(const void *caller, const char *function, const char *path)
{
	char line[4096], room[512];
	int saved = errno;
	size_t length = path ? strlen(path) : 0;

	if (getenv("CMETA_WATCH") &&
	    (is_ours(caller) || (length > 4 && !strcmp(path + length - 4, ".sif")))) {
		snprintf(line, sizeof(line), "%d %s %s %s\n", (int)geteuid(),
			 program(room, sizeof(room)), function, path ? path : "-");
		append("CMETA_WATCH", line);
	}
	errno = saved;
}

long cmeta_fail_at(long number)
{
	long before = seen;

	fail_at = number;
	seen = 0;
	return before; /* allocations of ours since the last call */
}

static void __attribute__((constructor)) start(void)
{
	const char *number = getenv("CMETA_FAIL_AT");

	if (number)
		fail_at = atol(number);
}

static bool fails(const void *caller)
{
	if (!fail_at || !is_ours(caller) || ++seen != fail_at)
		return false;
	append("CMETA_FAILED", "failed\n");
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return fails(CALLER) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fails(CALLER) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
	return fails(CALLER) ? NULL : __libc_realloc(memory, size);
}

static char *copy(const char *text, size_t length)
{
	char *made = __libc_malloc(length + 1);

	if (made) {
		memcpy(made, text, length);
		made[length] = '\0';
	}
	return made;
}

char *strdup(const char *text)
{
	return fails(CALLER) ? NULL : copy(text, strlen(text));
}

char *strndup(const char *text, size_t most)
{
	return fails(CALLER) ? NULL : copy(text, strnlen(text, most));
}

static int format(char **text, const char *words, va_list arguments)
{
	va_list again;
	int length;

	va_copy(again, arguments);
	length = vsnprintf(NULL, 0, words, again);
	va_end(again);
	if (length < 0 || !(*text = __libc_malloc((size_t)length + 1)))
		return -1;
	return vsnprintf(*text, (size_t)length + 1, words, arguments);
}

int vasprintf(char **text, const char *words, va_list arguments)
{
	return fails(CALLER) ? -1 : format(text, words, arguments);
}

int __vasprintf_chk(char **text, int flag, const char *words, va_list arguments)
{
	(void)flag;
	return fails(CALLER) ? -1 : format(text, words, arguments);
}

ssize_t getline(char **line, size_t *room, FILE *file)
{
	return fails(CALLER) ? -1 : REAL(getline)(line, room, file);
}

ssize_t getdelim(char **line, size_t *room, int mark, FILE *file)
{
	return fails(CALLER) ? -1 : REAL(getdelim)(line, room, mark, file);
}

ssize_t __getdelim(char **line, size_t *room, int mark, FILE *file)
{
	return fails(CALLER) ? -1 : REAL(getdelim)(line, room, mark, file);
}

char *getcwd(char *buffer, size_t size)
{
	watch(CALLER, "getcwd", NULL);
	return fails(CALLER) ? NULL : REAL(getcwd)(buffer, size);
}

int open(const char *path, int flags, ...)
{
	va_list arguments;
	int mode;

	va_start(arguments, flags);
	mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, int) : 0;
	va_end(arguments);
	watch(CALLER, "open", path);
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
	va_list arguments;
	int mode;

	va_start(arguments, flags);
	mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, int) : 0;
	va_end(arguments);
	watch(CALLER, "openat", path);
	return (int)syscall(SYS_openat, directory, path, flags, mode);
}

int stat(const char *path, struct stat *status)
{
	watch(CALLER, "stat", path);
	return REAL(stat)(path, status);
}

int mkdirat(int directory, const char *path, mode_t mode)
{
	watch(CALLER, "mkdirat", path);
	return REAL(mkdirat)(directory, path, mode);
}

FILE *fopen(const char *path, const char *mode)
{
	watch(CALLER, "fopen", path);
	return fails(CALLER) ? NULL : REAL(fopen)(path, mode);
}

int access(const char *path, int mode)
{
	watch(CALLER, "access", path);
	return REAL(access)(path, mode);
}

int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t length)
{
	bool local = address.__sockaddr__->sa_family == AF_UNIX && length > sizeof(sa_family_t);

	watch(CALLER, "connect", local ? address.__sockaddr_un__->sun_path : NULL);
	return REAL(connect)(fd, address, length);
}

FILE *open_memstream(char **text, size_t *length)
{
	return fails(CALLER) ? NULL : REAL(open_memstream)(text, length);
}

int glob(const char *pattern, int flags, int (*trouble)(const char *, int), glob_t *found)
{
	watch(CALLER, "glob", pattern);
	return fails(CALLER) ? GLOB_NOSPACE : REAL(glob)(pattern, flags, trouble, found);
}

pid_t fork(void)
{
	watch(CALLER, "fork", NULL);
	return REAL(fork)();
}

int execve(const char *path, char *const argv[], char *const environment[])
{
	watch(CALLER, "execve", path);
	return REAL(execve)(path, argv, environment);
}
