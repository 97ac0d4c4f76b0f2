/* Lines for people, and strings that grow. */
#ifndef CMETA_TEXT_H
#define CMETA_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Print "cmeta: " and the formatted text on stderr as one line. Control characters (what a user or
 * an image wrote may hold escape sequences) are shown as '?', and the line is bounded in length. */
void cmeta_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Copy text into out (of size bytes) with control characters replaced; always NUL-terminated. */
void cmeta_clean(const char *text, char *out, size_t size);

/* True when text has no control character. */
bool cmeta_is_printable(const char *text);

/* A formatted string on the heap, or NULL when memory is short. */
char *cmeta_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
