/* Lines for people, and strings that grow. */
#ifndef CMETA_TEXT_H
#define CMETA_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Print "cmeta: " and the formatted text on stderr as one line, at most 16 KiB of it ("..." says that it
 * goes on). What a user or an image wrote is cleaned. Neither a closed stderr nor a pipe that nobody reads
 * does any harm, and errno stays what it was. */
void cmeta_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Copy text into out (of size bytes), always NUL-terminated and never longer than it was. Shown as '?':
 * control characters (C0, DEL, C1), characters that change how others are shown (marks of direction, line
 * separators, joiners), and bytes that are no UTF-8. A character that has no room is left out whole. */
void cmeta_clean(const char *text, char *out, size_t size);

/* True when text has no ASCII control character. */
bool cmeta_is_printable(const char *text);

/* A formatted string on the heap, or NULL when memory is short. */
char *cmeta_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
