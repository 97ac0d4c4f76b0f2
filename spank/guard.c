#include "guard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"
#include "text.h"

/* Global header and descriptors of a SIF; the whole layout is drawn in slurm_cmeta/image/sif.py. */
enum {
	HEADER_SIZE = 128,
	MAGIC_OFFSET = 32,
	TOTAL_OFFSET = 88,
	TABLE_OFFSET = 96,
	DESCRIPTOR_SIZE = 585,
	USED_OFFSET = 4,
	EXTRA_OFFSET = 201,
	PARTTYPE_OFFSET = EXTRA_OFFSET + 4,
	ARCH_OFFSET = EXTRA_OFFSET + 8,
	TYPE_PARTITION = 0x4004,
	PARTTYPE_PRIMARY = 2,
	MAX_DESCRIPTORS = 1024, /* as in slurm_cmeta/image/sif.py; a SIF has 48 by default */
};

static const char MAGIC[] = "SIF_MAGIC";

static const struct {
	const char *code, *machine, *also; /* also: a second machine that runs it, or may */
} ARCHITECTURES[] = {
	/* tests/unit/test_spank_core.py compares this with slurm_cmeta/image/sif.py */
	{"01", "i686", "x86_64"}, {"02", "x86_64", NULL}, {"03", "armv7l", "aarch64"},
	{"04", "aarch64", NULL}, {"05", "ppc64", NULL}, {"06", "ppc64le", NULL},
	{"07", "mips", NULL}, {"08", "mipsel", "mips"}, {"09", "mips64", NULL},
	{"10", "mips64el", "mips64"}, {"11", "s390x", NULL}, {"12", "riscv64", NULL},
	{"13", "loongarch64", NULL},
};

static int32_t int32_at(const unsigned char *bytes)
{
	return (int32_t)((uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
			 (uint32_t)bytes[3] << 24);
}

static int64_t int64_at(const unsigned char *bytes)
{
	return (int64_t)((uint64_t)(uint32_t)int32_at(bytes) |
			 (uint64_t)(uint32_t)int32_at(bytes + 4) << 32);
}

static void read_code(int fd, const unsigned char *header, char code[3])
{
	int64_t total = int64_at(header + TOTAL_OFFSET), table = int64_at(header + TABLE_OFFSET);
	unsigned char descriptor[DESCRIPTOR_SIZE];

	if (total < 0 || total > MAX_DESCRIPTORS || table < HEADER_SIZE ||
	    table > INT64_MAX - (int64_t)MAX_DESCRIPTORS * DESCRIPTOR_SIZE)
		return;
	for (int64_t i = 0; i < total; i++) {
		if (pread(fd, descriptor, sizeof(descriptor), table + i * DESCRIPTOR_SIZE) !=
		    (ssize_t)sizeof(descriptor))
			return;
		if (descriptor[USED_OFFSET] && int32_at(descriptor) == TYPE_PARTITION &&
		    int32_at(descriptor + PARTTYPE_OFFSET) == PARTTYPE_PRIMARY) {
			memcpy(code, descriptor + ARCH_OFFSET, 2);
			return;
		}
	}
}

enum cmeta_image_kind cmeta_image_look(const char *path, char code[3])
{
	unsigned char header[HEADER_SIZE];
	enum cmeta_image_kind kind = CMETA_IMAGE_OTHER;
	struct stat status;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), saved;

	memset(code, 0, 3);
	if (fd < 0)
		return CMETA_IMAGE_UNREADABLE;
	if (fstat(fd, &status)) {
		kind = CMETA_IMAGE_UNREADABLE;
	} else if (S_ISREG(status.st_mode) &&
		   pread(fd, header, sizeof(header), 0) == (ssize_t)sizeof(header) &&
		   !memcmp(header + MAGIC_OFFSET, MAGIC, sizeof(MAGIC))) {
		kind = CMETA_IMAGE_SIF;
		read_code(fd, header, code);
	}
	saved = errno;
	close(fd);
	errno = saved;
	return kind;
}

/* What the child tells of the image. */
struct sight {
	enum cmeta_image_kind kind;
	int reason; /* errno */
	char code[3];
};

static void tell_sight(const void *path)
{
	struct sight seen = {0};

	seen.kind = cmeta_image_look(path, seen.code);
	seen.reason = errno;
	if (write(STDOUT_FILENO, &seen, sizeof(seen)) == (ssize_t)sizeof(seen))
		_exit(0);
}

static bool is_whole_sight(const char *text, size_t length)
{
	(void)text;
	return length == sizeof(struct sight);
}

enum cmeta_image_kind cmeta_image_look_within(const char *path, char code[3], int deadline_ms)
{
	long until = cmeta_now_ms() + deadline_ms;
	struct sight seen = {.kind = CMETA_IMAGE_UNREADABLE, .reason = ECANCELED};
	char told[sizeof(seen)];
	struct cmeta_child child;
	enum cmeta_child_end end;
	size_t length = 0;

	memset(code, 0, 3);
	if (!cmeta_child_start(&child, tell_sight, path))
		return CMETA_IMAGE_UNREADABLE;
	end = cmeta_child_read(&child, until, told, sizeof(told), &length, is_whole_sight);
	cmeta_child_end(&child, end == CMETA_CHILD_ANSWERED);
	if (end == CMETA_CHILD_LATE)
		return CMETA_IMAGE_LATE;
	if (is_whole_sight(told, length))
		memcpy(&seen, told, sizeof(seen));
	memcpy(code, seen.code, 2);
	errno = seen.reason;
	return seen.kind;
}

static int find_code(const char *code)
{
	for (int i = 0; i < (int)(sizeof(ARCHITECTURES) / sizeof(*ARCHITECTURES)); i++)
		if (!strcmp(ARCHITECTURES[i].code, code))
			return i;
	return -1;
}

const char *cmeta_architecture_of(const char *code)
{
	int i = find_code(code);

	return i < 0 ? NULL : ARCHITECTURES[i].machine;
}

/* qemu-user registered with the kernel runs foreign programs; then nothing is to be refused. */
static bool is_emulated(const char *machine)
{
	char first[16] = "";
	char *path = cmeta_format("/proc/sys/fs/binfmt_misc/qemu-%s", machine);
	FILE *file = path ? fopen(path, "re") : NULL;

	if (file) {
		if (!fgets(first, sizeof(first), file))
			first[0] = '\0';
		fclose(file);
	}
	free(path);
	return !strncmp(first, "enabled", 7);
}

static bool is_family(const char *machine, const char *wanted)
{
	size_t length = strlen(wanted);

	if (!strcmp(wanted, "i686")) /* i386, i486, i586 and i686 are one */
		return strlen(machine) == 4 && machine[0] == 'i' && !strcmp(machine + 2, "86");
	if (!strcmp(wanted, "armv7l"))
		return !strncmp(machine, "arm", 3);
	return !strncmp(machine, wanted, length) && machine[length] == '\0';
}

bool cmeta_machine_runs(const char *machine, const char *code)
{
	int i = find_code(code);

	if (i < 0)
		return true;
	if (is_family(machine, ARCHITECTURES[i].machine))
		return true;
	if (ARCHITECTURES[i].also && !strcmp(machine, ARCHITECTURES[i].also))
		return true;
	return is_emulated(ARCHITECTURES[i].machine);
}
