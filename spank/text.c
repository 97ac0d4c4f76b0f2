#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LINE = 4096 };

static bool is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7f;
}

void cmeta_clean(const char *text, char *out, size_t size)
{
	size_t used = 0;

	if (size == 0)
		return;
	while (*text && used + 1 < size) {
		unsigned char c = (unsigned char)*text++;
		/* U+0080..U+009F are control characters, too: two bytes in UTF-8, C2 80..9F. */
		bool c1 = c == 0xc2 && (unsigned char)*text >= 0x80 && (unsigned char)*text <= 0x9f;

		if (c1)
			text++;
		out[used++] = (is_control(c) || c1) ? '?' : (char)c;
	}
	out[used] = '\0';
}

bool cmeta_is_printable(const char *text)
{
	for (; *text; text++)
		if (is_control((unsigned char)*text))
			return false;
	return true;
}

void cmeta_say(const char *format, ...)
{
	char raw[MAX_LINE], clean[MAX_LINE + 16] = "cmeta: ";
	size_t prefix = strlen(clean), length;
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(raw, sizeof(raw), format, arguments);
	va_end(arguments);
	cmeta_clean(raw, clean + prefix, sizeof(clean) - prefix - 1);
	length = strlen(clean);
	clean[length++] = '\n';
	/* One write, so that lines of parallel tasks do not mix. A closed stderr is no error. */
	if (write(STDERR_FILENO, clean, length) < 0)
		return;
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
