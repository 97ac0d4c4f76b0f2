#include "cache.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "text.h"

enum {
	MAX_ENTRY = 1 << 16,
	SLOTS = 1024,           /* each request has its place in one: the cache cannot grow */
	LOCK_WAIT_MS = 300,     /* several times what a decision takes */
	LOCK_PAUSE_MS = 3,
	DIRECTORY_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
};

static const char FIRST_LINE[] = "cmeta-decision 1\n";
static const char LOCK_NAME[] = "lock";

bool cmeta_cache_request_make(const char *const argv[], struct cmeta_cache_request *request)
{
	struct utsname host;
	size_t length = 0, used;

	if (uname(&host))
		host.nodename[0] = '\0';
	used = strlen(host.nodename) + 1;
	for (size_t i = 0; argv[i]; i++)
		length += strlen(argv[i]) + 1;
	request->length = used + length;
	if (!(request->text = malloc(request->length)))
		return false;
	memcpy(request->text, host.nodename, used);
	for (size_t i = 0; argv[i]; i++) {
		size_t size = strlen(argv[i]) + 1;

		memcpy(request->text + used, argv[i], size);
		used += size;
	}
	return true;
}

/* FNV-1a. An entry holds its whole request: two requests in one slot cost time and nothing else. */
static unsigned slot_of(const struct cmeta_cache_request *request)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (size_t i = 0; i < request->length; i++)
		hash = (hash ^ (unsigned char)request->text[i]) * 0x100000001b3u;
	return (unsigned)((hash ^ hash >> 32) % SLOTS);
}

char *cmeta_cache_path(const struct cmeta_cache_request *request)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	unsigned slot = slot_of(request);

	/* The XDG Base Directory Specification has a relative path ignored. */
	if (cache && cache[0] == '/')
		return cmeta_format("%s/slurm-cmeta/%03x", cache, slot);
	if (home && home[0] == '/')
		return cmeta_format("%s/.cache/slurm-cmeta/%03x", home, slot);
	return NULL;
}

/* True for what nobody but this user can have written. */
static bool is_own(const struct stat *status)
{
	return status->st_uid == geteuid() && !(status->st_mode & (S_IWGRP | S_IWOTH));
}

/* Make a directory and, with levels 2, the one above it, so that the first submissions of a user wait for
 * each other, too. What fails is seen when it is opened. Never below what another user owns: `sudo sbatch`
 * may keep the user's HOME, and would leave a directory of root's there. */
static void make_directory(char *path, int levels)
{
	char *slash = strrchr(path, '/');
	struct stat status;
	int above;

	if (!slash || slash == path)
		return;
	*slash = '\0';
	if (levels > 1)
		make_directory(path, levels - 1);
	above = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	*slash = '/';
	if (above < 0)
		return;
	if (!fstat(above, &status) && status.st_uid == geteuid())
		mkdirat(above, slash + 1, 0700);
	close(above);
}

/* The directory that holds path, made if need be; -1 when it cannot be, or is not to be trusted. */
static int open_directory(const char *path, const char **name)
{
	char directory[PATH_MAX];
	const char *slash = strrchr(path, '/');
	struct stat status;
	int fd;

	if (!slash || (size_t)(slash - path) >= sizeof(directory))
		return -1;
	memcpy(directory, path, (size_t)(slash - path));
	directory[slash - path] = '\0';
	*name = slash + 1;
	fd = open(directory, DIRECTORY_FLAGS);
	if (fd < 0 && errno == ENOENT) {
		make_directory(directory, 2);
		fd = open(directory, DIRECTORY_FLAGS);
	}
	if (fd >= 0 && (fstat(fd, &status) || !is_own(&status))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Read an entry whole; 0 when there is none, or it is not to be trusted. */
static size_t read_entry(int directory, const char *name, char *buffer, size_t size)
{
	int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat status;
	size_t length = 0;
	ssize_t got = -1;

	if (fd < 0)
		return 0;
	if (!fstat(fd, &status) && S_ISREG(status.st_mode) && is_own(&status)) {
		while (length < size && (got = read(fd, buffer + length, size - length)) > 0)
			length += (size_t)got;
	}
	close(fd);
	return got == 0 ? length : 0; /* the end was seen */
}

/* CRC-32 as in zlib and PNG, bit by bit: an entry has a kilobyte or two. */
static uint32_t crc32_of(const char *text, size_t length)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < length; i++) {
		crc ^= (unsigned char)text[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

/* What is left of an entry to be read; text ends in a NUL that is not part of it. */
struct cursor {
	const char *text, *end;
};

static bool take_word(struct cursor *at, const char *word)
{
	size_t length = strlen(word);

	if ((size_t)(at->end - at->text) < length || memcmp(at->text, word, length))
		return false;
	at->text += length;
	return true;
}

/* A decimal number and the character after it. */
static bool take_number(struct cursor *at, long long *number, char after)
{
	char *end;

	errno = 0;
	*number = strtoll(at->text, &end, 10);
	if (errno || end == at->text || *end != after)
		return false;
	at->text = end + 1;
	return true;
}

static bool take_bytes(struct cursor *at, long long length, const char **bytes)
{
	if (length < 0 || length > at->end - at->text)
		return false;
	*bytes = at->text;
	at->text += length;
	return true;
}

/* The rest of the line, which becomes a string. */
static char *take_path(struct cursor *at)
{
	char *path = (char *)at->text, *end = memchr(path, '\n', (size_t)(at->end - at->text));

	if (!end || end == path)
		return NULL;
	*end = '\0';
	at->text = end + 1;
	return path;
}

static long long nanoseconds(const struct timespec *time)
{
	return time->tv_sec * 1000000000LL + time->tv_nsec;
}

/* "file DEVICE INODE SIZE MTIME CTIME PATH", times in ns. */
static bool file_is_unchanged(struct cursor *at)
{
	long long device, inode, size, mtime, ctime;
	struct stat now;
	const char *path;

	return take_number(at, &device, ' ') && take_number(at, &inode, ' ') &&
	       take_number(at, &size, ' ') && take_number(at, &mtime, ' ') &&
	       take_number(at, &ctime, ' ') && (path = take_path(at)) && !stat(path, &now) &&
	       (long long)now.st_dev == device && (long long)now.st_ino == inode &&
	       now.st_size == size && nanoseconds(&now.st_mtim) == mtime &&
	       nanoseconds(&now.st_ctim) == ctime;
}

static bool file_is_absent(struct cursor *at)
{
	struct stat now;
	const char *path = take_path(at);

	return path && stat(path, &now) && (errno == ENOENT || errno == ENOTDIR);
}

/* Every byte of an entry is covered: those before the sum by the sum, those after by comparison. */
static bool is_whole(const char *entry, size_t length)
{
	enum { SUM = sizeof("crc32 00000000\n") - 1 };
	char sum[SUM + 1];

	if (length < SUM)
		return false;
	snprintf(sum, sizeof(sum), "crc32 %08x\n", crc32_of(entry, length - SUM));
	return !memcmp(entry + length - SUM, sum, SUM);
}

/* The answer in an entry that is for this request and still holds. */
static bool find_answer(char *entry, size_t length, const struct cmeta_cache_request *request,
			struct cursor *answer)
{
	struct cursor at = {entry, entry + length};
	const char *text;
	long long number;

	entry[length] = '\0';
	if (!is_whole(entry, length) || !take_word(&at, FIRST_LINE) ||
	    !take_word(&at, "request ") || !take_number(&at, &number, '\n') ||
	    !take_bytes(&at, number, &text) || (size_t)number != request->length ||
	    memcmp(text, request->text, request->length))
		return false;
	if (!take_word(&at, "until ") || !take_number(&at, &number, '\n') ||
	    (number && number < time(NULL)))
		return false;
	while (!take_word(&at, "answer ")) {
		if (take_word(&at, "file ") ? !file_is_unchanged(&at)
		    : take_word(&at, "absent ") ? !file_is_absent(&at) : true)
			return false;
	}
	if (!take_number(&at, &number, '\n') || !take_bytes(&at, number, &text))
		return false;
	*answer = (struct cursor){text, text + number};
	return true;
}

static bool write_all(int fd, const char *text, size_t length)
{
	while (length) {
		ssize_t written = write(fd, text, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return false;
		text += written;
		length -= (size_t)written;
	}
	return true;
}

static bool answer_from(int directory, const char *name, const struct cmeta_cache_request *request,
			int fd)
{
	static char entry[MAX_ENTRY + 1];
	size_t length = read_entry(directory, name, entry, MAX_ENTRY);
	struct cursor answer;

	return length && find_answer(entry, length, request, &answer) &&
	       write_all(fd, answer.text, (size_t)(answer.end - answer.text));
}

/* One byte of one file stands for each slot. Open file description locks outlive exec(), and end
 * with the last process that holds the descriptor. */
static bool try_lock(int fd, unsigned slot)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};

	return !fcntl(fd, F_OFD_SETLK, &lock);
}

bool cmeta_cache_answer(const char *path, const struct cmeta_cache_request *request, int fd, int *lock)
{
	const struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};
	long until = cmeta_now_ms() + LOCK_WAIT_MS;
	const char *name;
	int directory = open_directory(path, &name), file;
	bool locked = false, answered;

	*lock = -1;
	if (directory < 0)
		return false;
	answered = answer_from(directory, name, request, fd);
	file = answered ? -1 : openat(directory, LOCK_NAME,
				      O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	/* Where there are no locks (some network file systems), there is no wait. */
	while (file >= 0 && !answered && !locked) {
		locked = try_lock(file, slot_of(request));
		if (!locked && errno != EAGAIN && errno != EACCES)
			break;
		if (!locked && cmeta_now_ms() >= until)
			break;
		if (!locked)
			nanosleep(&pause, NULL);
		answered = answer_from(directory, name, request, fd);
	}
	close(directory);
	if (locked && !answered)
		*lock = file;
	else if (file >= 0)
		close(file);
	return answered;
}
