#include "settings.h"

#include <ctype.h>
#include <glob.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "text.h"

#ifndef CMETA_BINDIR
#define CMETA_BINDIR "/usr/local/bin"
#endif
#ifndef CMETA_LIBEXECDIR
#define CMETA_LIBEXECDIR "/usr/local/libexec/slurm-cmeta"
#endif

static char OUT_OF_MEMORY[] = "out of memory"; /* an error that needs none */

enum { DEFAULT_DEADLINE_MS = 2000, MAX_DEADLINE_S = 60, MAX_INCLUDE_DEPTH = 4 };

enum cmeta_mode cmeta_mode_parse(const char *text)
{
	if (!text)
		return CMETA_UNSET;
	if (!strcmp(text, "off"))
		return CMETA_OFF;
	if (!strcmp(text, "on"))
		return CMETA_ON;
	if (!strcmp(text, "explain"))
		return CMETA_EXPLAIN;
	return CMETA_UNSET;
}

/* The value when argument is "key=value" with this key, else NULL. */
static const char *value_of(const char *argument, const char *key)
{
	size_t length = strlen(key);

	if (strncmp(argument, key, length) || argument[length] != '=')
		return NULL;
	return argument + length + 1;
}

static bool read_deadline(const char *text, int *milliseconds)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !(seconds > 0) || seconds > MAX_DEADLINE_S)
		return false;
	*milliseconds = (int)(seconds * 1000);
	return *milliseconds > 0;
}

static bool read_path(const char *text, const char **path)
{
	if (text[0] != '/')
		return false;
	*path = text;
	return true;
}

/* A number of bytes, or one with K, M, G or T, as `cmeta pull --store-size` takes it. */
static bool read_size(const char *text, const char **size)
{
	size_t digits = strspn(text, "0123456789");

	if (!digits || digits > 15 || (text[digits] && (!strchr("KMGT", text[digits]) || text[digits + 1])))
		return false;
	*size = text;
	return true;
}

static bool read_seconds(const char *text, const char **seconds)
{
	size_t digits = strspn(text, "0123456789");

	if (!digits || digits > 6 || text[digits] || !atoi(text))
		return false;
	*seconds = text;
	return true;
}

/* True when the argument is a known key with a good value. */
static bool read_argument(struct cmeta_settings *s, const char *argument, const char **options,
			  size_t *count)
{
	const char *value;

	if ((value = value_of(argument, "default"))) {
		enum cmeta_mode mode = cmeta_mode_parse(value);

		if (mode != CMETA_UNSET)
			s->default_mode = mode;
		return mode != CMETA_UNSET;
	}
	if ((value = value_of(argument, "matcher")))
		return read_path(value, &s->matcher);
	if ((value = value_of(argument, "config")))
		return read_path(value, &s->config);
	if ((value = value_of(argument, "slurm_conf")))
		return read_path(value, &s->slurm_conf);
	if ((value = value_of(argument, "deadline")))
		return read_deadline(value, &s->deadline_ms);
	if ((value = value_of(argument, "log"))) {
		if (strcmp(value, "none"))
			return read_path(value, &s->log);
		s->log = NULL;
		return true;
	}
	if ((value = value_of(argument, "run")))
		return read_path(value, &s->run);
	if ((value = value_of(argument, "runtime")))
		return read_path(value, &s->runtime);
	if ((value = value_of(argument, "pull")))
		return read_path(value, &s->pull);
	if ((value = value_of(argument, "store")))
		return read_path(value, &s->store);
	if ((value = value_of(argument, "store_size")))
		return read_size(value, &s->store_size);
	if ((value = value_of(argument, "pull_timeout")))
		return read_seconds(value, &s->pull_timeout);
	if ((value = value_of(argument, "runtime_option"))) {
		if (!*value)
			return false;
		options[(*count)++] = value;
		return true;
	}
	return false;
}

void cmeta_settings_read(struct cmeta_settings *settings, int argc, char *const argv[])
{
	const char **options = calloc((size_t)argc + 1, sizeof(*options));
	size_t count = 0;

	*settings = (struct cmeta_settings){
		.default_mode = CMETA_ON,
		.matcher = CMETA_BINDIR "/cmeta-decide",
		.deadline_ms = DEFAULT_DEADLINE_MS,
		.log = "/dev/log",
		.run = CMETA_LIBEXECDIR "/cmeta-run",
		.runtime_options = options,
	};
	if (!options) {
		settings->error = OUT_OF_MEMORY;
		return;
	}
	/* Go on after a mistake: the node needs runtime= whatever else is wrong. */
	for (int i = 0; i < argc; i++) {
		if (read_argument(settings, argv[i], options, &count) || settings->error)
			continue;
		settings->wrong = argv[i];
		settings->error = cmeta_format("unknown argument or bad value \"%s\"", argv[i]);
		if (!settings->error)
			settings->error = OUT_OF_MEMORY;
	}
}

void cmeta_settings_free(struct cmeta_settings *settings)
{
	if (settings->error != OUT_OF_MEMORY)
		free(settings->error);
	free((void *)settings->runtime_options);
	settings->error = NULL;
	settings->runtime_options = NULL;
}

static char *locate_in_file(const char *path, const char *argument, int depth);

static char *locate_in_include(const char *directory, const char *pattern, const char *argument,
			       int depth)
{
	char *full = pattern[0] == '/' ? strdup(pattern) : cmeta_format("%s/%s", directory, pattern);
	char *found = NULL;
	glob_t matches;

	if (full && !glob(full, 0, NULL, &matches)) {
		for (size_t i = 0; i < matches.gl_pathc && !found; i++)
			found = locate_in_file(matches.gl_pathv[i], argument, depth + 1);
		globfree(&matches);
	}
	free(full);
	return found;
}

static char *locate_in_file(const char *path, const char *argument, int depth)
{
	char *line = NULL, *found = NULL;
	size_t room = 0;
	FILE *file;

	if (depth > MAX_INCLUDE_DEPTH || !(file = fopen(path, "re")))
		return NULL;
	for (int number = 1; !found && getline(&line, &room, file) > 0; number++) {
		char *start = line + strspn(line, " \t");

		if (*start == '#')
			continue;
		if (!strncasecmp(start, "include", 7) && isspace((unsigned char)start[7])) {
			char *rest = NULL, *pattern = strtok_r(start + 7, " \t\n", &rest);
			char *directory = strdup(path);

			if (pattern && directory)
				found = locate_in_include(dirname(directory), pattern, argument,
							  depth);
			free(directory);
		} else if (strstr(start, argument)) {
			found = cmeta_format("%s:%d", path, number);
		}
	}
	free(line);
	fclose(file);
	return found;
}

char *cmeta_settings_locate(const char *slurm_conf, const char *argument)
{
	char *copy, *path, *found = NULL;

	if (!slurm_conf || !argument || !(copy = strdup(slurm_conf)))
		return NULL;
	if ((path = cmeta_format("%s/plugstack.conf", dirname(copy))))
		found = locate_in_file(path, argument, 0);
	free(path);
	free(copy);
	return found;
}
