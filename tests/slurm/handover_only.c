/* A SPANK plugin for the tests: hands over each CMETA_TEST_HAND_* variable of its environment as
 * CMETA_*, and does nothing else: a client that could not change the job itself, or a forger. */
#include <stdlib.h>
#include <string.h>

#include <slurm/spank.h>

SPANK_PLUGIN(handover_only, 1)

extern char **environ;

int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv)
{
	static const char prefix[] = "CMETA_TEST_HAND_";

	(void)argc;
	(void)argv;
	for (char **entry = environ; *entry; entry++) {
		char *copy, *value;

		if (strncmp(*entry, prefix, sizeof(prefix) - 1) || !(copy = strdup(*entry)))
			continue;
		value = strchr(copy, '=');
		*value++ = '\0';
		/* The name's tail after CMETA_TEST_HAND_, with CMETA_ before it. */
		memcpy(copy + sizeof(prefix) - 1 - 6, "CMETA_", 6);
		spank_job_control_setenv(spank, copy + sizeof(prefix) - 1 - 6, value, 1);
		free(copy);
	}
	return 0;
}
