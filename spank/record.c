#include "record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

/* Characters of a value, as in lua/cmeta_log.lua: a line has to fit into what syslog servers take (8 KiB). */
enum { MAX_NAME = 64, MAX_IMAGE = 512, MAX_EXPRESSION = 1024, MAX_DETAIL = 400 };

char *cmeta_record_took(long ms, bool cached)
{
	return cmeta_format("%ld %s", ms, cached ? "cache" : "matcher");
}

/* A key with its value, where there is one; whatever is no printable ASCII character becomes '?'. */
static void put(FILE *line, const char *key, const char *value, int most)
{
	if (!value || !*value)
		return;
	fprintf(line, ",\"%s\":\"", key);
	for (int i = 0; value[i] && i < most; i++) {
		unsigned char c = (unsigned char)value[i];

		if (c == '"' || c == '\\')
			fputc('\\', line);
		fputc(c >= ' ' && c <= '~' ? c : '?', line);
	}
	fputc('"', line);
}

char *cmeta_record_refusal(const struct cmeta_refusal *refusal)
{
	const char *reason = refusal->answer->reason, *detail = reason ? strchr(reason, ' ') : NULL;
	int code = detail ? (int)(detail - reason) : MAX_NAME;
	char *text = NULL;
	size_t length;
	FILE *line = open_memstream(&text, &length);
	bool good;

	if (!line)
		return NULL;
	fprintf(line, "cmeta decision {\"v\":1,\"event\":\"%s\",\"time\":%lld,\"user\":%lu",
		refusal->step ? "step" : "submit", (long long)time(NULL), (unsigned long)getuid());
	put(line, "name", refusal->name, MAX_NAME);
	put(line, "partition", refusal->partition, MAX_NAME);
	put(line, "image", refusal->image, MAX_IMAGE);
	put(line, "identity", refusal->answer->identity, MAX_NAME + MAX_NAME);
	put(line, "verdict", refusal->answer->verdict, MAX_NAME);
	put(line, "reason", reason, code);
	put(line, "detail", detail ? detail + 1 : NULL, MAX_DETAIL);
	put(line, "before", refusal->constraint, MAX_EXPRESSION);
	fprintf(line, ",\"ms\":%ld,\"from\":\"%s\",\"refused\":true}", refusal->ms,
		refusal->answer->cached ? "cache" : "matcher");
	good = !ferror(line);
	if (fclose(line) || !good) {
		free(text);
		return NULL;
	}
	return text;
}

bool cmeta_record_send(const char *socket_path, const char *line)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char *message;
	bool sent = false;
	int fd;

	if (strlen(socket_path) >= sizeof(address.sun_path))
		return false;
	memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
	/* syslog(3) waits for a reader. The time is left to the log, which knows it as well. */
	message = cmeta_format("<%d>cmeta[%ld]: %s", LOG_USER | LOG_INFO, (long)getpid(), line);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (message && fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof(address)))
		sent = send(fd, message, strlen(message), MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
	if (fd >= 0)
		close(fd);
	free(message);
	return sent;
}
