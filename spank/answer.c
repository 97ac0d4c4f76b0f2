#include "answer.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"

enum {
	MAX_HOSTLIST = 65536,
	MAX_MESSAGE = 16384,
	MAX_MESSAGES = 1024,
	MAX_MEMORY_DIGITS = 9, /* MiB; a pebibyte has ten */
	MAX_GRES = 64,
	MAX_REASON = 2048, /* 400 characters, see slurm_cmeta/reason.py */
	MAX_IDENTITY = 128,
	MAX_REFERENCE = 4096, /* as in slurm_cmeta/registry/reference.py */
};

static const char FIRST_LINE[] = "cmeta 1";
static const char LAST_LINE[] = "\nend\n";

bool cmeta_answer_is_complete(const char *text, size_t length)
{
	size_t last = sizeof(LAST_LINE) - 1;

	return length >= last && memmem(text, length, LAST_LINE, last) != NULL;
}

static bool add_message(struct cmeta_answer *answer, const char *value)
{
	char **grown;

	if (answer->message_count >= MAX_MESSAGES || strlen(value) > MAX_MESSAGE)
		return false;
	grown = realloc(answer->messages, (answer->message_count + 2) * sizeof(*grown));
	if (!grown)
		return false;
	answer->messages = grown;
	grown[answer->message_count] = strdup(value);
	if (!grown[answer->message_count])
		return false;
	grown[++answer->message_count] = NULL;
	return true;
}

/* Keep a value that may be given once, is not empty, not too long and printable. */
static bool keep(char **slot, const char *value, size_t limit)
{
	if (*slot || !*value || strlen(value) > limit || !cmeta_is_printable(value))
		return false;
	*slot = strdup(value);
	return *slot != NULL;
}

/* A number above 0, without leading zeros: what slurm_option_set() takes without a word. */
static bool is_memory(const char *value)
{
	return value[0] != '0' && strspn(value, "0123456789") == strlen(value);
}

/* gpu, gpu:2, gpu:a100:1 and the like. */
static bool is_gres(const char *value)
{
	return strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-") ==
	       strlen(value);
}

bool cmeta_is_reference(const char *image)
{
	return !strncmp(image, "docker://", 9) || !strncmp(image, "oras://", 7);
}

static bool read_line(struct cmeta_answer *answer, char *line, bool *have_action)
{
	char *value = strchr(line, ' ');

	if (!value)
		return false;
	*value++ = '\0';
	if (!strcmp(line, "verdict")) {
		if (strcmp(value, "match") && strcmp(value, "mismatch") && strcmp(value, "unknown"))
			return false;
		return keep(&answer->verdict, value, CMETA_MAX_EXPRESSION);
	}
	if (!strcmp(line, "action")) {
		if (*have_action || (strcmp(value, "accept") && strcmp(value, "reject")))
			return false;
		*have_action = true;
		answer->reject = !strcmp(value, "reject");
		return true;
	}
	if (!strcmp(line, "constraint"))
		return keep(&answer->constraint, value, CMETA_MAX_EXPRESSION);
	if (!strcmp(line, "prefer"))
		return keep(&answer->prefer, value, CMETA_MAX_EXPRESSION);
	if (!strcmp(line, "exclude"))
		return keep(&answer->exclude, value, MAX_HOSTLIST);
	if (!strcmp(line, "memory"))
		return is_memory(value) && keep(&answer->memory, value, MAX_MEMORY_DIGITS);
	if (!strcmp(line, "gres"))
		return is_gres(value) && keep(&answer->gres, value, MAX_GRES);
	if (!strcmp(line, "required"))
		return keep(&answer->required, value, CMETA_MAX_EXPRESSION);
	if (!strcmp(line, "reason"))
		return keep(&answer->reason, value, MAX_REASON);
	if (!strcmp(line, "identity"))
		return keep(&answer->identity, value, MAX_IDENTITY);
	if (!strcmp(line, "image"))
		return cmeta_is_reference(value) && keep(&answer->pinned, value, MAX_REFERENCE);
	if (!strcmp(line, "message"))
		return add_message(answer, value);
	return true; /* a key of a later release of this protocol */
}

bool cmeta_answer_parse(const char *text, size_t length, struct cmeta_answer *answer)
{
	char *copy = NULL, *line, *rest;
	bool first = true, ended = false, good = false, have_action = false;

	*answer = (struct cmeta_answer){0};
	if (memchr(text, '\0', length) || !(copy = strndup(text, length)))
		goto done;
	for (line = copy; line && !ended; line = rest) {
		rest = strchr(line, '\n');
		if (!rest)
			goto done; /* the last line was cut off */
		*rest++ = '\0';
		if (first) {
			if (strcmp(line, FIRST_LINE))
				goto done;
			first = false;
		} else if (!strcmp(line, "end")) {
			ended = true;
		} else if (!read_line(answer, line, &have_action)) {
			goto done;
		}
	}
	good = ended && answer->verdict && have_action;
done:
	free(copy);
	if (!good)
		cmeta_answer_free(answer);
	return good;
}

void cmeta_answer_free(struct cmeta_answer *answer)
{
	for (size_t i = 0; i < answer->message_count; i++)
		free(answer->messages[i]);
	free(answer->messages);
	free(answer->verdict);
	free(answer->constraint);
	free(answer->prefer);
	free(answer->exclude);
	free(answer->memory);
	free(answer->gres);
	free(answer->required);
	free(answer->reason);
	free(answer->identity);
	free(answer->pinned);
	*answer = (struct cmeta_answer){0};
}
