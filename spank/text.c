#include "text.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LINE = 16384 };

/* What is shown in place of a character that must not reach a terminal or a log. */
static const char REPLACEMENT = '?';

static const char PREFIX[] = "cmeta: ", CUT[] = "...";

static bool is_control(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c <= 0x9f);
}

/* Characters without a picture of their own that change what stands around them: marks of direction
 * (bidi), line and paragraph separators, joiners and the byte order mark. Unicode 15, chapter 23. */
static bool is_deceiving(uint32_t c)
{
	return c == 0xad || c == 0x61c || c == 0x180e || (c >= 0x200b && c <= 0x200f) ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff ||
	       (c >= 0xfff9 && c <= 0xfffb) || (c >= 0xe0000 && c <= 0xe0fff);
}

/* The character at text, and its length in bytes; 0 for bytes that are no UTF-8 (RFC 3629). */
static size_t decode(const unsigned char *text, uint32_t *c)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t length = text[0] < 0x80 ? 1 : text[0] < 0xc2 ? 0 : text[0] < 0xe0 ? 2 :
			text[0] < 0xf0 ? 3 : text[0] < 0xf5 ? 4 : 0;

	*c = length == 1 ? text[0] : text[0] & (0x7fu >> length);
	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80) /* also the NUL at the end */
			return 0;
		*c = *c << 6 | (text[i] & 0x3f);
	}
	if (length && (*c < least[length] || *c > 0x10ffff || (*c >= 0xd800 && *c <= 0xdfff)))
		return 0;
	return length;
}

void cmeta_clean(const char *text, char *out, size_t size)
{
	size_t used = 0;

	if (size == 0)
		return;
	while (*text) {
		uint32_t c;
		size_t length = decode((const unsigned char *)text, &c);
		bool good = length && !is_control(c) && !is_deceiving(c);

		if (used + (good ? length : 1) >= size)
			break; /* never a part of a character */
		if (good)
			memcpy(out + used, text, length);
		else
			out[used] = REPLACEMENT;
		used += good ? length : 1;
		text += length ? length : 1;
	}
	out[used] = '\0';
}

bool cmeta_is_printable(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return false;
	return true;
}

/* Write to stderr without dying of it: SIGPIPE would end sbatch before the job is submitted, only
 * because nobody reads our line. The signal of a write comes to the thread that wrote. */
static void write_all(const char *text, size_t length)
{
	sigset_t pipe_only, before, pending;
	struct timespec none = {0};
	bool was_pending;

	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	was_pending = !sigpending(&pending) && sigismember(&pending, SIGPIPE) == 1;
	if (pthread_sigmask(SIG_BLOCK, &pipe_only, &before))
		return;
	while (length) {
		ssize_t written = write(STDERR_FILENO, text, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			break; /* a closed stderr is no error */
		text += written;
		length -= (size_t)written;
	}
	if (!was_pending)
		while (sigtimedwait(&pipe_only, NULL, &none) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void cmeta_say(const char *format, ...)
{
	static const char no_memory[] = "cmeta: out of memory\n";
	char *raw = NULL, *line = NULL;
	size_t length, room;
	va_list arguments;
	int saved = errno, formatted;

	va_start(arguments, format);
	formatted = vasprintf(&raw, format, arguments);
	va_end(arguments);
	room = formatted < 0 ? 0 : (size_t)formatted;
	if (room > MAX_LINE)
		room = MAX_LINE;
	if (formatted >= 0)
		line = malloc(sizeof(PREFIX) + room + sizeof(CUT) + 1);
	if (line) {
		memcpy(line, PREFIX, sizeof(PREFIX));
		/* What is cleaned is never longer than what it was. */
		cmeta_clean(raw, line + sizeof(PREFIX) - 1, room + 1);
		length = strlen(line);
		if ((size_t)formatted > room) {
			memcpy(line + length, CUT, sizeof(CUT));
			length += sizeof(CUT) - 1;
		}
		line[length++] = '\n';
		/* One write, so that short lines of parallel tasks do not mix. */
		write_all(line, length);
	} else {
		write_all(no_memory, sizeof(no_memory) - 1);
	}
	free(line);
	if (formatted >= 0)
		free(raw);
	errno = saved;
}

char *cmeta_format(const char *format, ...)
{
	char *text = NULL;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vasprintf(&text, format, arguments);
	va_end(arguments);
	return length < 0 ? NULL : text;
}
